"""How good a set of pictures is: every figure beside its floor, what real pictures get against the same reference."""

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
#: Fewer pictures than this, drawn or real, are refused: the fifth neighbour would be a quarter of the set away.
LEAST_PICTURES = 20
#: Below this number, drawn or real, the scores come with a warning.
FEW_PICTURES = 1_000


@dataclass(frozen=True)
class Quality:
    """The scores of a set of pictures; see ``trainer.evaluate.metrics`` for what each one is.

    ``class_kl`` is None where the evaluator knows no two classes. ``nearest_ratio`` and ``copies`` are None where
    there are no held-out pictures to compare with, the first also where most of those are copies of training pictures.
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
        """The measured ones by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Statistics:
    """What the metrics need to know of a set of pictures; ``classes`` (count,) int64 are the evaluator's reading."""

    classes: Tensor
    moments: metrics.Moments
    manifold: metrics.Manifold


@dataclass(frozen=True)
class Training:
    """Features of the training set, and how far each held-out picture is from the nearest of them, (count,)."""

    features: Tensor
    held_out: Tensor


@dataclass(frozen=True)
class Reference:
    """Real pictures, seen once by ``evaluator``: what every set of pictures is compared with.

    ``name`` says which, ``pictures`` are uint8 (count, channel, height, width) and ``labels`` (count,) their true
    classes. ``floor`` is the quality of ``samples`` other real pictures: as many must be generated, because fewer
    pictures get worse scores. ``training`` is None where there are no held-out pictures to look for memorisation with.
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
        """What to be careful about with so few pictures, drawn or real; empty with enough of both."""
        if min(self.samples, len(self.pictures)) >= FEW_PICTURES:
            return ""
        return (
            f"{self.samples:,} pictures against {self.name}: below {FEW_PICTURES:,} all scores but the kernel distance "
            "depend on both numbers. Read them beside those of real pictures, and compare them only with scores of the "
            "same numbers"
        )


def against_training(evaluator: Evaluator, train: ImageData, samples: int) -> Reference:
    """Half of the training pictures, 10,000 at most, for choosing between checkpoints; the floor is from the rest.

    The reference asks for ``samples`` pictures, or for fewer where there are not as many for the floor.
    """
    require_same_data(evaluator, train)
    count = min(MOST_REFERENCES, len(train.images) // 2)
    order = choose(len(train.images), len(train.images))
    floor = train.images[order[count : count + samples]]
    return _reference(evaluator, train, order[:count], "training", floor)


def against_test(evaluator: Evaluator, test: ImageData, train: ImageData, samples: int) -> Reference:
    """The test pictures, 10,000 at most, for the published figure; the floor is from the training pictures.

    The reference asks for ``samples`` pictures, or for as many as there are training pictures.
    """
    require_same_data(evaluator, train)
    count = min(MOST_REFERENCES, len(test.images))
    floor = train.images[choose(samples, len(train.images))]
    reference = _reference(evaluator, test, choose(count, len(test.images)), "test", floor)
    return replace(
        reference,
        # The held-out pictures are what memorisation is measured by, so theirs is its floor.
        floor=replace(reference.floor, nearest_ratio=1.0, copies=metrics.NEAR_SHARE),
        training=_training(evaluator, train, reference.statistics),
    )


def evaluate_parts(parts: Parts, reference: Reference, count: int, sampler: Sampler, *, first_seed: int = 0) -> Quality:
    """Draw ``count`` pictures of a model, in the reference's mix of classes, and score them.

    The parts are in eval mode on the evaluator's device. Raises EvaluationError when the model makes pictures of
    another shape or of other classes than the reference holds.
    """
    require_matching(parts, reference.evaluator)
    labels = labels_like(reference.labels, count)
    pictures = draw(parts, labels, sampler, first_seed=first_seed, device=reference.evaluator.device)
    return evaluate_pictures(pictures, reference)


def evaluate_pictures(pictures: Tensor, reference: Reference) -> Quality:
    """Score uint8 (count, channel, height, width). Raises EvaluationError when they are too few or of another shape."""
    if len(pictures) < LEAST_PICTURES:
        raise EvaluationError(f"{len(pictures)} pictures are too few: at least {LEAST_PICTURES} can be scored")
    statistics = _statistics(reference.evaluator, pictures)
    quality = _compare(reference.evaluator, reference.statistics, statistics)
    if reference.training is None:
        return quality
    nearest = metrics.nearest_distances(statistics.manifold.features.float(), reference.training.features)
    memorised = metrics.memorisation(nearest, reference.training.held_out)
    # Held-out pictures that are themselves copies are no measure of distance.
    ratio = memorised.ratio if math.isfinite(memorised.ratio) else None
    return replace(quality, nearest_ratio=ratio, copies=memorised.copies)


def require_matching(parts: Parts, evaluator: Evaluator) -> None:
    """Raise EvaluationError unless the model's pictures, and its number of classes, are as the evaluator's."""
    evaluator.require_shape(parts.image_shape, "the model's pictures are")
    if parts.classes not in (0, len(evaluator.facts.class_names)):
        raise EvaluationError(
            f"the model knows {parts.classes} classes, the evaluator {evaluator.facts.version} of "
            f"{evaluator.facts.dataset} knows {len(evaluator.facts.class_names)}"
        )


def require_same_data(evaluator: Evaluator, data: ImageData) -> None:
    """Raise EvaluationError unless the evaluator was trained on the data set of ``data``, as far as names tell."""
    if evaluator.facts.dataset != data.facts.name:
        raise EvaluationError(
            f"the evaluator {evaluator.facts.version} was trained on {evaluator.facts.dataset}, "
            f"the reference pictures are of {data.facts.name}: name another with --evaluator"
        )
    require_classes(evaluator, data.facts.class_names, "the reference pictures are of")


def require_classes(evaluator: Evaluator, class_names: tuple[str, ...], what: str) -> None:
    """Raise EvaluationError unless ``class_names`` are the evaluator's, or none."""
    if class_names and not evaluator.facts.class_names:
        raise EvaluationError(
            f"{what} {', '.join(class_names)}, the evaluator {evaluator.facts.version} was trained on pictures without "
            "classes: name another with --evaluator"
        )
    if class_names not in ((), evaluator.facts.class_names):
        raise EvaluationError(
            f"{what} {', '.join(class_names)}, the evaluator {evaluator.facts.version} tells "
            f"{', '.join(evaluator.facts.class_names)} apart: name another with --evaluator"
        )


def _reference(evaluator: Evaluator, data: ImageData, chosen: Tensor, split: str, floor: Tensor) -> Reference:
    pictures = data.images[chosen]
    if min(len(pictures), len(floor)) < LEAST_PICTURES:
        instead = "; --against train compares with half of the training images" if split == "test" else ""
        raise EvaluationError(
            f"{len(pictures)} {split} images, and {len(floor)} others, are too few to compare with: "
            f"{LEAST_PICTURES} of each would do{instead}"
        )
    real, other = _statistics(evaluator, pictures), _statistics(evaluator, floor)
    name = f"{len(chosen):,} {split} images of {data.facts.name}"
    quality = _compare(evaluator, real, other)
    return Reference(evaluator, name, pictures, data.labels[chosen], real, len(floor), quality)


def _statistics(evaluator: Evaluator, pictures: Tensor) -> Statistics:
    features, classes = evaluator.predict(pictures)
    return Statistics(classes, metrics.moments(features), metrics.manifold(features))


def _training(evaluator: Evaluator, train: ImageData, held_out: Statistics) -> Training:
    # float32 halves the work of the largest comparison; a distance that matters here is far from its rounding.
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
