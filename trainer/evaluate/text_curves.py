"""Scores of a text-to-image model against guidance and steps: measured once and stored as JSON."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from tqdm import tqdm

from service.contract.manifest import Score
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import Sampler
from trainer.evaluate.text_quality import Group, GroupScores, TextReference
from trainer.files import write
from trainer.generate import pictures_of
from trainer.models.text_parts import TextParts

#: Images generated at a time.
BATCH_SIZE = 50

TITLES = {
    "recall": ("R@1 among 100 captions", "ceiling"),
    "distance": ("Frechet distance", "floor"),
    "coverage": ("coverage", "coverage_floor"),
    "copies": ("copies of training pictures", None),
    "followed": ("stroke pixels followed", "followed_real"),
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextPoint(_Record):
    """The scores of one group with one sampler, whose settings are ``steps`` and ``guidance_scale``."""

    sampler: str
    steps: int
    guidance_scale: float
    scores: GroupScores


class TextCurves(_Record):
    """All points of one model. Image i of a group has seed ``seed`` + i; a group has at most ``samples`` images."""

    model: str
    version: str
    evaluator: str
    dataset: str
    samples: int
    seed: int
    points: tuple[TextPoint, ...] = ()

    def of(self, sampler: str) -> list[GroupScores]:
        """The scores of all groups with one sampler."""
        return [point.scores for point in self.points if point.sampler == sampler]


#: Called with the sampler, the group and its generated images, uint8 (count, channel, height, width).
Show = Callable[[Sampler, Group, Tensor], None]


def measure(
    parts: TextParts,
    reference: TextReference,
    samplers: Sequence[Sampler],
    curves: TextCurves,
    device: torch.device,
    show: Show | None = None,
) -> Iterator[TextCurves]:
    """Score every group with every sampler; yields ``curves`` with one more point each time.

    Points that ``curves`` already contains are not measured again. A progress bar counts network evaluations.
    """
    groups = reference.groups(curves.samples, curves.seed, drawings=parts.hint_shape is not None)
    known = {(point.sampler, point.scores.group) for point in curves.points}
    open_points = [(each, group) for each in samplers for group in groups if (each.name, group.name) not in known]
    with tqdm(total=sum(_work(*each) for each in open_points), desc="images", unit="pass", unit_scale=True) as bar:
        for sampler, group in open_points:
            bar.set_postfix_str(f"{group.name}, {sampler.name}")
            made = []
            for batch in batches(parts, group, sampler, curves.seed, device):
                made.append(batch)
                bar.update(len(batch) * _passes(sampler))
            pictures = torch.cat(made)
            point = TextPoint(
                sampler=sampler.name or "",
                steps=sampler.plan.steps,
                guidance_scale=sampler.guidance_scale,
                scores=reference.score(group, pictures),
            )
            curves = curves.model_copy(update={"points": (*curves.points, point)})
            if show is not None:
                show(sampler, group, pictures)
            yield curves


def batches(
    parts: TextParts, group: Group, sampler: Sampler, first_seed: int, device: torch.device
) -> Iterator[Tensor]:
    """uint8 (batch, channel, height, width): images for the captions, with their drawings, if there are any."""
    for first in range(0, len(group.names), BATCH_SIZE):
        some = slice(first, min(first + BATCH_SIZE, len(group.names)))
        seeds = range(first_seed + some.start, first_seed + some.stop)
        hints = None if group.hints is None else group.hints[some]
        made = pictures_of(parts, group.names[some], seeds, device, sampler.plan, sampler.guidance_scale, hints)
        yield made.permute(0, 3, 1, 2).contiguous()


def write_json(path: Path, curves: TextCurves) -> None:
    """Write the points, to plot them or to continue later."""
    write(path, curves.model_dump_json(indent=2).encode() + b"\n")


def resume(path: Path, empty: TextCurves) -> TextCurves:
    """The earlier points in ``path`` if model, evaluator, samples and seed are those of ``empty``; otherwise that."""
    with suppress(OSError, UnicodeDecodeError, ValidationError):
        known = TextCurves.model_validate_json(path.read_text())
        if known.model_copy(update={"points": ()}) == empty:
            return known
    return empty


def scores_of(curves: TextCurves, sampler: str) -> tuple[Score, ...]:
    """The scores with one sampler in the form of the manifest. Raises EvaluationError when there are none."""
    groups = curves.of(sampler)
    if not groups:
        raise EvaluationError(f"{sampler}: not measured")
    return tuple(score for group in groups for score in _scores(curves, sampler, group))


def _scores(curves: TextCurves, sampler: str, group: GroupScores) -> Iterator[Score]:
    values: dict[str, tuple[float | None, float | None]] = {
        title: (getattr(group, name), getattr(group, real) if real else None) for name, (title, real) in TITLES.items()
    }
    values |= {f"rule of {rule}": (share, 1.0) for rule, share in group.rules.items()}
    for title, (value, floor) in values.items():
        if value is not None:
            yield Score(
                metric=title,
                value=value,
                samples=group.pictures,
                reference=f"{group.group} of {curves.dataset}, evaluator {curves.evaluator}",
                floor=floor,
                sampler=sampler,
            )


def _work(sampler: Sampler, group: Group) -> int:
    return len(group.names) * _passes(sampler)


def _passes(sampler: Sampler) -> int:
    """Network evaluations per image: two per step with guidance."""
    return sampler.plan.steps * (1 if sampler.guidance_scale == 1 else 2)
