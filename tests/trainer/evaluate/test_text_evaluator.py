from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import EMOJI
from trainer.data import ImageData, to_unit_range
from trainer.data.emoji import load_emoji
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.text_evaluator import (
    FACTS_FILE,
    TextEvaluator,
    TextEvaluatorFacts,
    load_text_evaluator,
    write_text_evaluator,
)
from trainer.evaluate.text_quality import TextReference, pool
from trainer.evaluate.towers import BATCH_SIZE, Towers, augment, train_towers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits() -> tuple[ImageData, ImageData]:
    return load_emoji(EMOJI), load_emoji(EMOJI, train=False)


@pytest.fixture(scope="module")
def evaluator_folder(splits: tuple[ImageData, ImageData], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluator that knows the committed emoji well: chance would name 1 of 58."""
    folder: Path = tmp_path_factory.mktemp("text-evaluator")
    train = splits[0]
    towers, tokenizer = train_towers(train, 45, 0, CPU)
    write_text_evaluator(
        folder,
        towers,
        tokenizer,
        dataset="emoji",
        image_shape=train.facts.image_shape,
        recall={"training": 1.0},
        command="python -m trainer evaluator --dataset emoji",
        epochs=45,
        seconds=1.0,
        device="CPU",
    )
    return folder


@pytest.fixture(scope="module")
def evaluator(evaluator_folder: Path) -> TextEvaluator:
    return load_text_evaluator(evaluator_folder, CPU)[1]


def test_it_tells_most_training_pictures_apart(evaluator: TextEvaluator, splits: tuple[ImageData, ImageData]) -> None:
    assert TextReference(evaluator, pool(*splits)).real_recall("training", 58) > 0.3


def test_what_is_loaded_is_what_was_written(evaluator_folder: Path) -> None:
    facts, evaluator = load_text_evaluator(evaluator_folder, CPU)
    assert isinstance(facts, TextEvaluatorFacts)
    assert evaluator.embed_captions(["red heart"]).shape == (1, 128)
    assert (evaluator_folder / facts.tokenizer).is_file()


@pytest.mark.parametrize("which", ["file", "tokenizer"])
def test_an_altered_file_is_refused(evaluator_folder: Path, tmp_path: Path, which: str) -> None:
    facts, _ = load_text_evaluator(evaluator_folder, CPU)
    for name in (facts.file, facts.tokenizer, FACTS_FILE):
        (tmp_path / name).write_bytes((evaluator_folder / name).read_bytes())
    altered = tmp_path / getattr(facts, which)
    altered.write_bytes(altered.read_bytes() + b" ")
    with pytest.raises(EvaluationError, match="SHA-256"):
        load_text_evaluator(tmp_path, CPU)


def test_a_missing_evaluator_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=FACTS_FILE):
        load_text_evaluator(tmp_path, CPU)


def test_augmented_pictures_stay_white_around_and_in_place() -> None:
    white = torch.full((8, 3, 64, 64), 255, dtype=torch.uint8)
    assert float((augment(white) - 1.0).mean().abs()) < 0.01
    dot = white.clone()
    dot[:, :, 28:36, 28:36] = 0
    moved = augment(dot)
    assert float(moved[:, :, 16:48, 16:48].mean()) < float(moved.mean()), "what was in the middle is still near it"


def test_the_loss_is_least_for_pairs_that_agree() -> None:
    towers = Towers(3)
    pairs = torch.eye(4)
    assert float(towers.loss(pairs, pairs).detach()) < 0.01 < float(towers.loss(pairs, pairs.roll(1, 0)).detach())
    assert BATCH_SIZE > 100, "as many captions as retrieval chooses among"
    picture = to_unit_range(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    features, embedding = towers.eval().picture(picture)
    assert features.shape == (1, 192)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1))
