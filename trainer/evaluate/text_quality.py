"""The scores of a text-to-image model by group of captions: those it was trained on, and those held out."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.compute.draws import Draws
from trainer.data import ImageData, choose, to_unit_range
from trainer.data.captions import Captions
from trainer.data.strokes import on_strokes, strokes
from trainer.evaluate.colours import holds, rule_of
from trainer.evaluate.judge import Judge, Seen
from trainer.evaluate.metrics import frechet_distance, manifold, memorisation, moments, nearest_distances, support
from trainer.evaluate.retrieval import choices, recall_at_1

#: Pictures of a group at least: coverage looks at each one's fifth neighbour.
LEAST = 6
#: (captions, first seed, drawings (count, 1, height, width) or None) -> uint8 (count, channel, height, width).
Draw = Callable[[Sequence[str], int, Tensor | None], Tensor]


@dataclass(frozen=True)
class Pool:
    """All captioned pictures, the training split first: rows of every score are rows of these."""

    images: Tensor
    captions: Captions

    @property
    def groups(self) -> list[str]:
        """The groups in which there are enough pictures to be scored, the training captions first."""
        counts = Counter(self.captions.groups)
        known = sorted(counts, key=lambda group: (group != "training", group))
        return [group for group in known if counts[group] >= LEAST]

    def rows(self, group: str) -> Tensor:
        """The rows (count,) int64 of a group."""
        return torch.tensor([row for row, each in enumerate(self.captions.groups) if each == group], dtype=torch.int64)


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group: of ``pictures`` drawn ones, one for each of its captions.

    ``recall`` is R@1 among 100 captions and ``ceiling`` that of the real pictures. ``distance`` is the Frechet distance
    of the judge's features to the real pictures', ``floor`` that of as many training pictures to others. ``coverage``
    is the share of real pictures with a drawn one near. ``copies`` is the share of drawn pictures nearer to a training
    picture than all but 1 % of the held-out ones are. ``rules`` are the shares of pictures that keep a colour rule.
    ``followed`` is the share of stroke pixels with an edge of the picture within 2 pixels; None without drawings.
    """

    group: str
    pictures: int
    recall: float
    ceiling: float
    distance: float
    floor: float
    coverage: float
    copies: float
    rules: dict[str, float]
    followed: float | None = None


def pool(train: ImageData, test: ImageData) -> Pool:
    """Both splits in one."""
    assert train.captions is not None
    assert test.captions is not None
    return Pool(torch.cat([train.images, test.images]), train.captions.join(test.captions))


def real_recall(judge: Judge, everything: Pool, group: str, most: int) -> float:
    """R@1 among 100 captions of the real pictures of a group."""
    rows = sample(everything.rows(group), most)
    captions = judge.read(everything.captions.names)
    return recall_at_1(
        judge.see(everything.images[rows]).embeddings, captions, choices(everything.captions.names, rows)
    )


def score_group(
    judge: Judge, everything: Pool, group: str, draw: Draw, most: int, seed: int = 0, *, drawings: bool = False
) -> GroupScores:
    """Draw a picture for ``most`` captions of a group at most, and score them. Raises ValueError for fewer than six.

    With ``drawings`` strokes after the real picture are drawn for each caption.
    """
    rows = sample(everything.rows(group), most)
    names = [everything.captions.names[int(row)] for row in rows]
    hints = _strokes(everything.images[rows], seed) if drawings else None
    pictures = draw(names, seed, hints)
    made, real = judge.see(pictures), judge.see(everything.images[rows])
    captions, among = judge.read(everything.captions.names), choices(everything.captions.names, rows)
    training = judge.see(everything.images[everything.rows("training")])
    held_out = torch.cat([everything.rows(each) for each in set(everything.captions.groups) - {"training"}])
    unseen = judge.see(everything.images[held_out])
    distances = [nearest_distances(each.features, training.features) for each in (made, unseen)]
    return GroupScores(
        group=group,
        pictures=len(rows),
        recall=recall_at_1(made.embeddings, captions, among),
        ceiling=recall_at_1(real.embeddings, captions, among),
        distance=frechet_distance(moments(made.features), moments(real.features)),
        floor=_floor(training, len(rows)),
        coverage=support(manifold(real.features), manifold(made.features)).coverage,
        copies=memorisation(*distances).copies,
        rules=_rules(names, pictures, everything.images[rows]),
        followed=None if hints is None else float(on_strokes(to_unit_range(pictures), hints).mean()),
    )


def sample(rows: Tensor, most: int) -> Tensor:
    """A fixed choice of at most ``most`` of ``rows``."""
    return rows[choose(most, len(rows))]


def _strokes(images: Tensor, seed: int) -> Tensor:
    draws = Draws(torch.device("cpu"))
    draws.restart(seed)
    return strokes(to_unit_range(images), draws)


def _floor(training: Seen, count: int) -> float:
    """The Frechet distance of ``count`` training pictures to ``count`` others, or of halves where there are too few."""
    order = choose(len(training.features), len(training.features))
    count = min(count, len(order) // 2)
    halves = training.features[order[:count]], training.features[order[count : 2 * count]]
    return frechet_distance(*map(moments, halves))


def _rules(names: Sequence[str], pictures: Tensor, real: Tensor) -> dict[str, float]:
    asked, kept = Counter[str](), Counter[str]()
    for name, picture, original in zip(names, pictures, real, strict=True):
        if (rule := rule_of(name)) is not None:
            asked[rule] += 1
            kept[rule] += holds(name, picture, original)
    return {rule: kept[rule] / asked[rule] for rule in sorted(asked)}
