"""Whether images match their captions: how often the evaluator ranks an image's own caption first."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Number of captions that are ranked for an image, its own included.
CHOICES = 100


def choices(names: Sequence[str], group: Tensor, seed: int = 0) -> Tensor:
    """For each row of ``group`` (count,) int64 its own row and 99 others, (count, 100): others of the group first.

    The others have other names. Of a small group there are too few: the rest is drawn from all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    ids = torch.tensor([number[name] for name in names])
    picked = [_others(ids, int(row), group, generator) for row in group]
    return torch.cat([group[:, None], torch.stack(picked)], dim=1)


def _others(ids: Tensor, row: int, group: Tensor, generator: torch.Generator) -> Tensor:
    """Rows (99,) of other names than ``row``'s."""
    near = group[torch.randperm(len(group), generator=generator)]
    far = torch.randperm(len(ids), generator=generator)
    candidates = torch.cat([near, far[~torch.isin(far, group)]])
    return candidates[ids[candidates] != ids[row]][: CHOICES - 1]


def recall_at_1(pictures: Tensor, captions: Tensor, among: Tensor) -> float:
    """The share of ``pictures`` (count, dimension) nearest to their own caption, the first of each row of ``among``.

    ``captions`` is (rows, dimension), ``among`` (count, choices) int64. A tie with another caption is no hit.
    """
    similarity = torch.einsum("nd,ncd->nc", pictures, captions[among])
    own, others = similarity[:, 0], similarity[:, 1:]
    return float((own > others.amax(dim=1)).double().mean())
