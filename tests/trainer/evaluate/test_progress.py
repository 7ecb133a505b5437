"""How near a network in training is to its training pictures."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.evaluate.conftest import SHIPPED
from trainer.data import ImageData
from trainer.data.images import to_unit_range
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import Evaluator
from trainer.evaluate.progress import TrainingDistance, training_distance
from trainer.models.parts import Parts


class Album(nn.Module):
    """A generator that turns over the pages of an album, one for each latent; ``label`` is remembered."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.pictures, self.page = to_unit_range(pictures), 0
        self.labels: list[Tensor] = []

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        self.labels.append(label)
        pages = torch.arange(self.page, self.page + len(z)) % len(self.pictures)
        self.page += len(z)
        return self.pictures[pages]


def album(pictures: Tensor) -> Parts:
    return Parts((1, 28, 28), 10, (2,), decode=Album(pictures))


def test_real_pictures_are_near_and_noise_is_far(evaluator: Evaluator, train: ImageData) -> None:
    distance = TrainingDistance(evaluator, train)
    noise = torch.randint(256, train.images.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert distance(album(train.images)) < 0.1
    assert distance(album(noise)) > 50


def test_the_classes_are_asked_for_in_the_mix_of_the_training_pictures(evaluator: Evaluator, train: ImageData) -> None:
    parts = album(train.images)
    TrainingDistance(evaluator, train)(parts)
    labels = torch.cat(parts.decode.labels).bincount(minlength=10)  # type: ignore[arg-type]
    share = train.labels.bincount(minlength=10) / len(train.labels)
    assert (labels / 1000 - share).abs().max() < 0.002


def test_a_model_without_classes_is_asked_for_none(evaluator: Evaluator, train: ImageData) -> None:
    parts = dataclasses.replace(album(train.images), classes=0)
    TrainingDistance(evaluator, train)(parts)
    assert torch.cat(parts.decode.labels).tolist() == [0] * 1000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"name": "mnist"}, "was trained on fashion-mnist, the reference images are of mnist"),
        ({"image_shape": (3, 32, 32)}, "the training images are 3 x 32 x 32"),
    ],
)
def test_without_a_matching_evaluator_there_is_no_distance(
    train: ImageData, changed: dict[str, object], reason: str
) -> None:
    other = dataclasses.replace(train, facts=dataclasses.replace(train.facts, **changed))  # type: ignore[arg-type]
    measure, line = training_distance(SHIPPED, other, torch.device("cpu"))
    assert measure is None
    assert reason in line
    assert "the last EMA weights will be exported" in line


def test_what_chooses_is_line(train: ImageData) -> None:
    measure, line = training_distance(SHIPPED, train, torch.device("cpu"))
    assert measure is not None
    assert line == f"the best EMA weights will be exported, selected by the evaluator {measure.evaluator.facts.version}"


def test_below_a_thousand_as_many_are_drawn_as_there_are(evaluator: Evaluator, train: ImageData) -> None:
    some = dataclasses.replace(train, images=train.images[:200], labels=train.labels[:200])
    parts = album(some.images)
    assert TrainingDistance(evaluator, some)(parts) == pytest.approx(0, abs=1e-6)
    assert len(torch.cat(parts.decode.labels)) == 200  # type: ignore[arg-type]


def test_few_pictures_and_no_evaluator_are_line(evaluator: Evaluator, train: ImageData, tmp_path: Path) -> None:
    few = dataclasses.replace(train, images=train.images[:99], labels=train.labels[:99])
    with pytest.raises(EvaluationError, match="99 training images are too few"):
        TrainingDistance(evaluator, few)
    assert training_distance(tmp_path, train, torch.device("cpu"))[0] is None
