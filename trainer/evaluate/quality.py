"""Scores of a set of images, each with its floor: the score of real images against the same reference."""

import math
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from trainer.data import ImageData, choose
from trainer.evaluate import metrics
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import Evaluator
from trainer.evaluate.pictures import Sampler, draw, labels_like
from trainer.models.parts import Parts

MOST_REFERENCES = 10_000
#: Fewer images, generated or real, are rejected: the fifth neighbour would be a quarter of the set away.
LEAST_PICTURES = 20
#: Fewer images, generated or real, cause a warning.
FEW_PICTURES = 1_000


@dataclass(frozen=True)
class Quality:
    """The scores of a set of images; ``trainer.evaluate.metrics`` defines them.

    ``class_kl`` is None if the evaluator has fewer than two classes. ``nearest_ratio`` and ``copies`` are None without
    held-out images; ``nearest_ratio`` also if most of those are copies of training images.
    """

    frechet_distance: float
    kernel_distance: float
    precision: float
    recall: float
    density: float
    coverage: float
    class_kl: float | None
    nearest_ratio: float | None = None
    copies: float | None = None

    def scores(self) -> dict[str, float]:
        """The scores that are not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Statistics:
    """The statistics of a set of images; ``classes`` (count,) int64 are predicted by the evaluator."""

    classes: Tensor
    moments: metrics.Moments
    manifold: metrics.Manifold


@dataclass(frozen=True)
class Training:
    """Features of the training set, and the distance of each held-out image to the nearest of them, (count,)."""

    features: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Reference:
    """Real images and their statistics by ``evaluator``, with which generated images are compared.

    ``name`` describes them, ``pictures`` are uint8 (count, channel, height, width), ``labels`` (count,) their classes.
    ``floor`` is the quality of ``samples`` other real images: the same number must be generated, because fewer images
    get worse scores. ``training`` is None without held-out images, which the test for memorisation needs.
    """

    evaluator: Evaluator
    name: str
    pictures: Tensor
    labels: Tensor
    statistics: Statistics
    samples: int
    floor: Quality
    training: Training | None = None

    @property
    def warning(self) -> str:
        """A warning about too few images, generated or real; empty if there are enough."""
        if min(self.samples, len(self.pictures)) >= FEW_PICTURES:
            return ""
        return (
            f"{self.samples:,} images against {self.name}: below {FEW_PICTURES:,} images all scores except the kernel "
            "distance depend on the number of images. Compare them only with those of real images and with scores of "
            "the same numbers of images"
        )


def against_training(evaluator: Evaluator, train: ImageData, samples: int) -> Reference:
    """Half of the training images, at most 10,000, to compare checkpoints; the floor comes from the other half.

    The reference has ``samples`` images, or fewer if the floor has fewer.
    """
    require_same_data(evaluator, train)
    count = min(MOST_REFERENCES, len(train.images) // 2)
    order = choose(len(train.images), len(train.images))
    floor = train.images[order[count : count + samples]]
    return _reference(evaluator, train, order[:count], "training", floor)


def against_test(evaluator: Evaluator, test: ImageData, train: ImageData, samples: int) -> Reference:
    """The test images, at most 10,000, for published scores; the floor comes from the training images.

    The reference has ``samples`` images, or as many as there are training images.
    """
    require_same_data(evaluator, train)
    count = min(MOST_REFERENCES, len(test.images))
    floor = train.images[choose(samples, len(train.images))]
    reference = _reference(evaluator, test, choose(count, len(test.images)), "test", floor)
    return replace(
        reference,
        # Memorisation is measured relative to the held-out images, so these are its floor by definition.
        floor=replace(reference.floor, nearest_ratio=1.0, copies=metrics.NEAR_SHARE),
        training=_training(evaluator, train, reference.statistics),
    )


def evaluate_parts(parts: Parts, reference: Reference, count: int, sampler: Sampler, *, first_seed: int = 0) -> Quality:
    """Generate ``count`` images with the reference's class frequencies and score them.

    The parts are in eval mode on the evaluator's device. Raises EvaluationError when image shape or classes differ from
    those of the reference.
    """
    require_matching(parts, reference.evaluator)
    labels = labels_like(reference.labels, count)
    pictures = draw(parts, labels, sampler, first_seed=first_seed, device=reference.evaluator.device)
    return evaluate_pictures(pictures, reference)


def evaluate_pictures(pictures: Tensor, reference: Reference) -> Quality:
    """Score uint8 (count, channel, height, width). Raises EvaluationError when they are too few or of another shape."""
    if len(pictures) < LEAST_PICTURES:
        raise EvaluationError(f"{len(pictures)} images are too few: at least {LEAST_PICTURES} are needed")
    statistics = _statistics(reference.evaluator, pictures)
    quality = _compare(reference.evaluator, reference.statistics, statistics)
    if reference.training is None:
        return quality
    nearest = metrics.nearest_distances(statistics.manifold.features.float(), reference.training.features)
    memorised = metrics.memorisation(nearest, reference.training.held_out)
    # The ratio is undefined if most held-out images are copies of training images.
    ratio = memorised.ratio if math.isfinite(memorised.ratio) else None
    return replace(quality, nearest_ratio=ratio, copies=memorised.copies)


def require_matching(parts: Parts, evaluator: Evaluator) -> None:
    """Raise EvaluationError unless image shape and number of classes are those of the evaluator."""
    evaluator.require_shape(parts.image_shape, "the model's images are")
    if parts.classes not in (0, len(evaluator.facts.class_names)):
        raise EvaluationError(
            f"the model has {parts.classes} classes, the evaluator {evaluator.facts.version} of "
            f"{evaluator.facts.dataset} has {len(evaluator.facts.class_names)}"
        )


def require_same_data(evaluator: Evaluator, data: ImageData) -> None:
    """Raise EvaluationError unless the evaluator's data set and classes have the names of those of ``data``."""
    if evaluator.facts.dataset != data.facts.name:
        raise EvaluationError(
            f"the evaluator {evaluator.facts.version} was trained on {evaluator.facts.dataset}, "
            f"the reference images are of {data.facts.name}: name another with --evaluator"
        )
    require_classes(evaluator, data.facts.class_names, "the reference images are of")


def require_classes(evaluator: Evaluator, class_names: tuple[str, ...], what: str) -> None:
    """Raise EvaluationError unless ``class_names`` are the evaluator's, or none."""
    if class_names and not evaluator.facts.class_names:
        raise EvaluationError(
            f"{what} {', '.join(class_names)}, the evaluator {evaluator.facts.version} was trained on images without "
            "classes: name another with --evaluator"
        )
    if class_names not in ((), evaluator.facts.class_names):
        raise EvaluationError(
            f"{what} {', '.join(class_names)}, the evaluator {evaluator.facts.version} on "
            f"{', '.join(evaluator.facts.class_names)}: name another with --evaluator"
        )


def _reference(evaluator: Evaluator, data: ImageData, chosen: Tensor, split: str, floor: Tensor) -> Reference:
    pictures = data.images[chosen]
    if min(len(pictures), len(floor)) < LEAST_PICTURES:
        instead = "; --against train compares with half of the training images" if split == "test" else ""
        raise EvaluationError(
            f"{len(pictures)} {split} images and {len(floor)} others are too few to compare with: "
            f"at least {LEAST_PICTURES} of each are needed{instead}"
        )
    real, other = _statistics(evaluator, pictures), _statistics(evaluator, floor)
    name = f"{len(chosen):,} {split} images of {data.facts.name}"
    quality = _compare(evaluator, real, other)
    return Reference(evaluator, name, pictures, data.labels[chosen], real, len(floor), quality)


def _statistics(evaluator: Evaluator, pictures: Tensor) -> Statistics:
    features, classes = evaluator.predict(pictures)
    return Statistics(classes, metrics.moments(features), metrics.manifold(features))


def _training(evaluator: Evaluator, train: ImageData, held_out: Statistics) -> Training:
    # float32 halves the time of the largest comparison; its rounding does not matter here.
    features = evaluator.predict(train.images)[0].float()
    return Training(features, metrics.nearest_distances(held_out.manifold.features.float(), features))


def _compare(evaluator: Evaluator, real: Statistics, generated: Statistics) -> Quality:
    support = metrics.support(real.manifold, generated.manifold)
    classes = len(evaluator.facts.class_names)
    return Quality(
        frechet_distance=metrics.frechet_distance(real.moments, generated.moments),
        kernel_distance=metrics.kernel_distance(real.manifold.features, generated.manifold.features),
        precision=support.precision,
        recall=support.recall,
        density=support.density,
        coverage=support.coverage,
        class_kl=metrics.class_divergence(generated.classes, real.classes, classes) if classes > 1 else None,
    )
