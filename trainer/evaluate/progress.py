"""How near a network in training is to its training pictures: what its best average is chosen by.

The test pictures are for the published figure alone.
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
#: With fewer training pictures, chance would choose the average.
LEAST_TRAINING = 100


class TrainingDistance:
    """The Frechet distance of 1,000 pictures of a model to 10,000 training pictures; of either as many as there are.

    It compares averages of one run: all are measured on the same number of pictures.

    Raises EvaluationError when the evaluator knows other pictures, or there are too few to tell.
    """

    def __init__(self, evaluator: Evaluator, train: ImageData) -> None:
        require_same_data(evaluator, train)
        evaluator.require_shape(train.facts.image_shape, "the training pictures are")
        if len(train.images) < LEAST_TRAINING:
            raise EvaluationError(f"{len(train.images)} training pictures are too few to compare with")
        self.evaluator, self.judge = evaluator, evaluator.facts.version
        chosen = choose(min(MOST_REFERENCES, len(train.images)), len(train.images))
        self.pictures, self.labels = (
            train.images[chosen],
            labels_like(train.labels[chosen], min(SAMPLES, len(train.images))),
        )

    @cached_property
    def moments(self) -> metrics.Moments:
        """Those of the training pictures, which take a while."""
        return metrics.moments(self.evaluator.predict(self.pictures)[0])

    def __call__(self, parts: Parts) -> float:
        """The distance of a model in eval mode, on the evaluator's device, sampled as its defaults say."""
        require_matching(parts, self.evaluator)
        pictures = draw(parts, self.labels, make_sampler(parts), device=self.evaluator.device)
        return metrics.frechet_distance(self.moments, metrics.moments(self.evaluator.predict(pictures)[0]))


def training_distance(folder: Path, train: ImageData, device: torch.device) -> tuple[TrainingDistance | None, str]:
    """The yardstick with the evaluator in ``folder``, None where it cannot judge these pictures; and that in words."""
    try:
        measure = TrainingDistance(load_evaluator(folder, device), train)
    except EvaluationError as failure:
        return None, f"the last average is kept, the best is not known: {failure}"
    return measure, f"the best average is kept, by the evaluator {measure.judge}"
