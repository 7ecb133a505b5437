"""The shipped evaluator and the committed sample of real pictures."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import EMOJI
from trainer.data import ImageData, load_fashion_mnist
from trainer.data.emoji import load_emoji
from trainer.evaluate.evaluator import Evaluator, load_evaluator
from trainer.evaluate.quality import Reference, against_training
from trainer.evaluate.text_evaluator import load_text_evaluator
from trainer.evaluate.text_quality import TextReference, pool

SHIPPED = Path(__file__).parents[3] / "weights" / "evaluator"


@pytest.fixture(scope="session")
def evaluator() -> Evaluator:
    return load_evaluator(SHIPPED, torch.device("cpu"))


@pytest.fixture(scope="session")
def train(sample_folder: Path) -> ImageData:
    """1,200 real pictures."""
    whole = load_fashion_mnist(sample_folder)
    facts = dataclasses.replace(whole.facts, images=1200)
    return dataclasses.replace(whole, facts=facts, images=whole.images[:1200], labels=whole.labels[:1200])


@pytest.fixture(scope="session")
def test_split(sample_folder: Path) -> ImageData:
    return load_fashion_mnist(sample_folder, train=False)


@pytest.fixture(scope="session")
def reference(evaluator: Evaluator, train: ImageData) -> Reference:
    """600 real pictures, with 600 others as floor."""
    return against_training(evaluator, train, 600)


@pytest.fixture(scope="session")
def text_reference() -> TextReference:
    """The shipped text evaluator and the committed emoji."""
    _, evaluator = load_text_evaluator(SHIPPED.parent / "text-evaluator", torch.device("cpu"))
    return TextReference(evaluator, pool(load_emoji(EMOJI), load_emoji(EMOJI, train=False)))
