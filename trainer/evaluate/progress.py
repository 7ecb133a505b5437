"""The distance of a model in training to its training images, which selects the best EMA weights.

Test images are reserved for published scores.
"""

from functools import cached_property
from pathlib import Path

import torch

from trainer.data import ImageData, choose
from trainer.evaluate import metrics
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import Evaluator, load_evaluator
from trainer.evaluate.pictures import draw, labels_like, make_sampler
from trainer.evaluate.quality import MOST_REFERENCES, require_matching, require_same_data
from trainer.models.parts import Parts

SAMPLES = 1_000
#: With fewer training images, the selection would be random.
LEAST_TRAINING = 100


class TrainingDistance:
    """The Frechet distance of 1,000 generated images to 10,000 training images, or fewer if there are fewer.

    It compares EMA weights of one run only, because they are evaluated with the same numbers of images.

    Raises EvaluationError when the evaluator was trained on other data, or there are too few images.
    """

    def __init__(self, evaluator: Evaluator, train: ImageData) -> None:
        require_same_data(evaluator, train)
        evaluator.require_shape(train.facts.image_shape, "the training images are")
        if len(train.images) < LEAST_TRAINING:
            raise EvaluationError(f"{len(train.images)} training images are too few to compare with")
        self.evaluator, self.evaluator_version = evaluator, evaluator.facts.version
        chosen = choose(min(MOST_REFERENCES, len(train.images)), len(train.images))
        self.pictures, self.labels = (
            train.images[chosen],
            labels_like(train.labels[chosen], min(SAMPLES, len(train.images))),
        )

    @cached_property
    def moments(self) -> metrics.Moments:
        """The moments of the training images: computed on first use, because that takes a while."""
        return metrics.moments(self.evaluator.predict(self.pictures)[0])

    def __call__(self, parts: Parts) -> float:
        """The distance of ``parts``, in eval mode on the evaluator's device, with the default sampler."""
        require_matching(parts, self.evaluator)
        pictures = draw(parts, self.labels, make_sampler(parts), device=self.evaluator.device)
        return metrics.frechet_distance(self.moments, metrics.moments(self.evaluator.predict(pictures)[0]))


def training_distance(folder: Path, train: ImageData, device: torch.device) -> tuple[TrainingDistance | None, str]:
    """The distance with the evaluator in ``folder``, or None if it does not fit the data; and a line that says so."""
    try:
        measure = TrainingDistance(load_evaluator(folder, device), train)
    except EvaluationError as failure:
        return None, f"the last EMA weights will be exported, the best ones cannot be selected: {failure}"
    return measure, f"the best EMA weights will be exported, selected by the evaluator {measure.evaluator_version}"
