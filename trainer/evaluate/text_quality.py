"""Scores of a text-to-image model by group of captions: training, held-out, and those with a colour rule."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from service.sampling.pixels import to_uint8
from trainer.compute.draws import Draws
from trainer.data import ImageData, choose, to_unit_range
from trainer.data.captions import Captions
from trainer.data.strokes import moved, on_strokes, strokes
from trainer.evaluate.colours import RULES, holds, rule_of
from trainer.evaluate.metrics import (
    Manifold,
    frechet_distance,
    manifold,
    memorisation,
    moments,
    nearest_distances,
    support,
)
from trainer.evaluate.retrieval import choices, recall_at_1
from trainer.evaluate.text_evaluator import ImageEmbeddings, TextEvaluator

#: Smallest size of a group: coverage uses the fifth neighbour of each image.
LEAST = 6
#: The group of captions with a colour rule, from all splits: the others have hardly any hearts and flags.
RULE_GROUP = "colour rules"
#: Training captions whose images were moved, for a model that takes drawings: the captions do not say where they are.
MOVED_GROUP = "moved"


@dataclass(frozen=True)
class Pool:
    """All captioned images, the training split first."""

    images: Tensor
    captions: Captions

    @property
    def groups(self) -> list[str]:
        """The groups with enough images for scores, the training captions first."""
        counts = Counter(self.captions.groups)
        known = sorted(counts, key=lambda group: (group != "training", group))
        return [group for group in known if counts[group] >= LEAST]

    def rows(self, group: str) -> Tensor:
        """The rows (count,) int64 of a group."""
        return torch.tensor([row for row, each in enumerate(self.captions.groups) if each == group], dtype=torch.int64)

    def rows_with_rule(self, rule: str) -> Tensor:
        """The rows (count,) int64 of the captions with this colour rule."""
        return torch.tensor([row for row, name in enumerate(self.captions.names) if rule_of(name) == rule]).long()


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group on ``pictures`` generated images, one per caption.

    ``recall`` is R@1 among 100 captions and ``ceiling`` that of the real images. ``distance`` is the Frechet distance
    of the features of generated and real images, ``coverage`` the fraction of real images with a generated one near;
    ``floor`` and ``coverage_floor`` are those between two sets of training images of that size. ``copies`` is the
    fraction of generated images nearer to a training image than all but 1 % of the held-out ones are. ``rules`` are the
    fractions of images that satisfy a colour rule. ``followed`` is the fraction of stroke pixels with an edge of the
    image within 2 pixels, ``followed_real`` that of the real images and ``followed_other`` that of images for other
    drawings, the chance level; None without drawings.
    """

    group: str
    pictures: int
    recall: float
    ceiling: float
    distance: float
    floor: float
    coverage: float
    coverage_floor: float
    copies: float
    rules: dict[str, float]
    followed: float | None = None
    followed_real: float | None = None
    followed_other: float | None = None


@dataclass(frozen=True)
class Group:
    """The real images of one group, uint8 (count, channel, height, width), with all that the scores need of them.

    ``among`` are the captions to choose from, see ``retrieval.choices``; ``hints`` are strokes drawn after the images,
    (count, 1, height, width), or None for a model that takes no drawings.
    """

    name: str
    names: tuple[str, ...]
    images: Tensor
    real: Manifold
    embeddings: Tensor
    among: Tensor
    floor: float
    coverage_floor: float
    hints: Tensor | None = None


@dataclass(frozen=True)
class TextReference:
    """The evaluator and the real images; their features are computed once and used for every sampler."""

    evaluator: TextEvaluator
    everything: Pool

    @cached_property
    def captions(self) -> Tensor:
        """Embeddings (rows, dimension) of all names."""
        return self.evaluator.embed_captions(self.everything.captions.names)

    @cached_property
    def training(self) -> ImageEmbeddings:
        """Features and embeddings of the training images."""
        return self.evaluator.embed_images(self.everything.images[self.everything.rows("training")])

    @cached_property
    def held_out(self) -> Tensor:
        """The distance (count,) of each held-out image to the nearest training image."""
        rows = [row for row, group in enumerate(self.everything.captions.groups) if group != "training"]
        features = self.evaluator.embed_images(self.everything.images[torch.tensor(rows)]).features
        return nearest_distances(features, self.training.features)

    def groups(self, most: int, seed: int, *, drawings: bool = False) -> list[Group]:
        """Every group with at most ``most`` captions, and as many for each colour rule together.

        ``MOVED_GROUP`` is the last one, for a model that takes ``drawings``.
        """
        per_rule = max(LEAST, most // len(RULES))
        with_rule = torch.cat([sample(self.everything.rows_with_rule(rule), per_rule) for rule in RULES])
        chosen = {name: sample(self.everything.rows(name), most) for name in self.everything.groups}
        if len(with_rule) >= LEAST:
            chosen[RULE_GROUP] = with_rule
        images = self.everything.images
        groups = [self._group(name, rows, images[rows], seed, drawings=drawings) for name, rows in chosen.items()]
        if drawings:
            rows = sample(self.everything.rows("training"), most)
            groups.append(self._group(MOVED_GROUP, rows, _moved(images[rows], seed), seed, drawings=True))
        return groups

    def real_recall(self, group: str, most: int) -> float:
        """R@1 among 100 captions of the real images of a group."""
        rows = sample(self.everything.rows(group), most)
        embeddings = self.evaluator.embed_images(self.everything.images[rows]).embeddings
        return recall_at_1(embeddings, self.captions, choices(self.everything.captions.names, rows))

    def score(self, group: Group, pictures: Tensor) -> GroupScores:
        """The scores of ``pictures``, uint8 (count, channel, height, width), one for each caption of ``group``."""
        made = self.evaluator.embed_images(pictures)
        nearest = nearest_distances(made.features, self.training.features)
        return GroupScores(
            group=group.name,
            pictures=len(pictures),
            recall=recall_at_1(made.embeddings, self.captions, group.among),
            ceiling=recall_at_1(group.embeddings, self.captions, group.among),
            distance=frechet_distance(moments(made.features), moments(group.real.features)),
            floor=group.floor,
            coverage=support(group.real, manifold(made.features)).coverage,
            coverage_floor=group.coverage_floor,
            copies=memorisation(nearest, self.held_out).copies,
            rules=_rules(group, pictures),
            **_followed(group, pictures),
        )

    def _group(self, name: str, rows: Tensor, images: Tensor, seed: int, *, drawings: bool) -> Group:
        captions = self.everything.captions
        real = self.evaluator.embed_images(images)
        floor, coverage = self._floor(len(rows))
        return Group(
            name=name,
            names=tuple(captions.names[int(row)] for row in rows),
            images=images,
            real=manifold(real.features),
            embeddings=real.embeddings,
            among=choices(captions.names, rows),
            floor=floor,
            coverage_floor=coverage,
            hints=_strokes(images, seed) if drawings else None,
        )

    def _floor(self, count: int) -> tuple[float, float]:
        """Frechet distance and coverage of ``count`` training images against others, or of halves of too few."""
        features = self.training.features
        half = min(count, len(features) // 2)
        some, others = torch.split(features[choose(2 * half, len(features))], half)
        distance = frechet_distance(moments(some), moments(others))
        return distance, support(manifold(some), manifold(others)).coverage


def pool(train: ImageData, test: ImageData) -> Pool:
    """Both splits in one."""
    assert train.captions is not None
    assert test.captions is not None
    return Pool(torch.cat([train.images, test.images]), train.captions.join(test.captions))


def sample(rows: Tensor, most: int) -> Tensor:
    """A fixed choice of at most ``most`` of ``rows``."""
    return rows[choose(most, len(rows))]


def _strokes(images: Tensor, seed: int) -> Tensor:
    return strokes(to_unit_range(images), _draws(seed))


def _moved(images: Tensor, seed: int) -> Tensor:
    return to_uint8(moved(to_unit_range(images), _draws(seed))).permute(0, 3, 1, 2)


def _draws(seed: int) -> Draws:
    draws = Draws(torch.device("cpu"))
    draws.restart(seed)
    return draws


def _followed(group: Group, pictures: Tensor) -> dict[str, float]:
    if group.hints is None:
        return {}
    made, real = to_unit_range(pictures), to_unit_range(group.images)
    shares = {"followed": made, "followed_real": real, "followed_other": made.roll(1, dims=0)}
    return {name: float(on_strokes(images, group.hints).mean()) for name, images in shares.items()}


def _rules(group: Group, pictures: Tensor) -> dict[str, float]:
    total, kept = Counter[str](), Counter[str]()
    for name, picture, original in zip(group.names, pictures, group.images, strict=True):
        if (rule := rule_of(name)) is not None:
            total[rule] += 1
            kept[rule] += holds(name, picture, original)
    return {rule: kept[rule] / total[rule] for rule in sorted(total)}
