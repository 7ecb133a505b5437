"""Scores of a text-to-image model by group of captions: training captions and held-out ones."""

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
from trainer.evaluate.metrics import frechet_distance, manifold, memorisation, moments, nearest_distances, support
from trainer.evaluate.retrieval import choices, recall_at_1
from trainer.evaluate.text_evaluator import ImageEmbeddings, TextEvaluator

#: Smallest size of a group: coverage uses the fifth neighbour of each image.
LEAST = 6
#: (captions, first seed, drawings (count, 1, height, width) or None) -> uint8 (count, channel, height, width).
Draw = Callable[[Sequence[str], int, Tensor | None], Tensor]


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


@dataclass(frozen=True)
class GroupScores:
    """Scores of one group on ``pictures`` generated images, one per caption.

    ``recall`` is R@1 among 100 captions and ``ceiling`` that of the real images. ``distance`` is the Frechet distance
    of the features of generated and real images, ``floor`` that between two sets of training images of that size.
    ``coverage`` is the fraction of real images with a generated one near. ``copies`` is the fraction of generated
    images nearer to a training image than all but 1 % of the held-out ones are. ``rules`` are the fractions of images
    that satisfy a colour rule. ``followed`` is the fraction of stroke pixels with an edge of the image within 2 pixels;
    None without drawings.
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


def real_recall(evaluator: TextEvaluator, everything: Pool, group: str, most: int) -> float:
    """R@1 among 100 captions of the real pictures of a group."""
    rows = sample(everything.rows(group), most)
    captions = evaluator.embed_captions(everything.captions.names)
    return recall_at_1(
        evaluator.embed_images(everything.images[rows]).embeddings, captions, choices(everything.captions.names, rows)
    )


def score_group(
    evaluator: TextEvaluator,
    everything: Pool,
    group: str,
    draw: Draw,
    most: int,
    seed: int = 0,
    *,
    drawings: bool = False,
) -> GroupScores:
    """Generate an image for at most ``most`` captions of a group and score them. Raises ValueError for fewer than six.

    With ``drawings`` the generator also gets strokes drawn after the real image of each caption.
    """
    rows = sample(everything.rows(group), most)
    names = [everything.captions.names[int(row)] for row in rows]
    hints = _strokes(everything.images[rows], seed) if drawings else None
    pictures = draw(names, seed, hints)
    made, real = evaluator.embed_images(pictures), evaluator.embed_images(everything.images[rows])
    captions, among = evaluator.embed_captions(everything.captions.names), choices(everything.captions.names, rows)
    training = evaluator.embed_images(everything.images[everything.rows("training")])
    held_out = torch.cat([everything.rows(each) for each in set(everything.captions.groups) - {"training"}])
    unseen = evaluator.embed_images(everything.images[held_out])
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


def _floor(training: ImageEmbeddings, count: int) -> float:
    """The Frechet distance of ``count`` training images to ``count`` others, or of halves if there are too few."""
    order = choose(len(training.features), len(training.features))
    count = min(count, len(order) // 2)
    halves = training.features[order[:count]], training.features[order[count : 2 * count]]
    return frechet_distance(*map(moments, halves))


def _rules(names: Sequence[str], pictures: Tensor, real: Tensor) -> dict[str, float]:
    total, kept = Counter[str](), Counter[str]()
    for name, picture, original in zip(names, pictures, real, strict=True):
        if (rule := rule_of(name)) is not None:
            total[rule] += 1
            kept[rule] += holds(name, picture, original)
    return {rule: kept[rule] / total[rule] for rule in sorted(total)}
