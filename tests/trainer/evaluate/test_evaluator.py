import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.trainer.evaluate.conftest import SHIPPED
from trainer.data import ImageData
from trainer.evaluate.classifier import Classifier
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import FACTS_FILE, Evaluator, load_evaluator, write_evaluator

CPU = torch.device("cpu")
TRAINING = {"command": "python -m trainer evaluator", "epochs": 1, "seconds": 2.5, "device": "CPU, 1 thread"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "evaluator"))


def test_the_shipped_one_names_the_classes_of_pictures_it_never_saw(
    evaluator: Evaluator, test_split: ImageData
) -> None:
    assert evaluator.facts.accuracy >= 0.94
    assert evaluator.facts.test_images == 10_000
    assert evaluator.facts.class_names == test_split.facts.class_names
    features, classes = evaluator.predict(test_split.images)
    assert features.shape == (500, evaluator.facts.features)
    assert features.dtype == torch.float64
    assert (classes == test_split.labels).double().mean() > 0.92
    assert (SHIPPED / evaluator.facts.file).stat().st_size < 4_000_000


def test_what_it_sees_in_a_picture_depends_on_no_other(evaluator: Evaluator, test_split: ImageData) -> None:
    together, _ = evaluator.predict(test_split.images[:5])
    alone, _ = evaluator.predict(test_split.images[3:4])
    torch.testing.assert_close(together[3:4], alone, atol=1e-4, rtol=1e-4)


def test_written_then_loaded(test_split: ImageData, tmp_path: Path) -> None:
    network = Classifier((1, 28, 28), 10).eval()
    facts = write_evaluator(tmp_path / "new", network, test_split, 0.125, **TRAINING)
    loaded = load_evaluator(tmp_path / "new", CPU)
    assert loaded.facts == facts
    assert (facts.file, facts.accuracy, facts.test_images) == (f"evaluator-{facts.sha256[:8]}.pt", 0.125, 500)
    assert not (tmp_path / "new" / "manifest.json").exists()  # the service would take it for a model
    again = write_evaluator(tmp_path / "again", network, test_split, 0.125, **TRAINING)
    assert again == facts


def test_an_altered_file_is_refused_by_name(folder: Path, evaluator: Evaluator) -> None:
    path = folder / evaluator.facts.file
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EvaluationError, match=rf"{evaluator.facts.file}: its SHA-256 is not {evaluator.facts.sha256}"):
        load_evaluator(folder, CPU)


def test_a_missing_file_is_reported(folder: Path, evaluator: Evaluator) -> None:
    (folder / evaluator.facts.file).unlink()
    with pytest.raises(EvaluationError, match=evaluator.facts.file):
        load_evaluator(folder, CPU)
    (folder / FACTS_FILE).unlink()
    with pytest.raises(EvaluationError, match="python -m trainer evaluator trains one"):
        load_evaluator(folder, CPU)


@pytest.mark.parametrize("change", [{"file": "../evaluator-00000000.pt"}, {"accuracy": "high"}, {"more": 1}])
def test_wrong_facts_are_refused_by_field(folder: Path, change: dict[str, object]) -> None:
    facts = json.loads((folder / FACTS_FILE).read_text())
    (folder / FACTS_FILE).write_text(json.dumps(facts | change))
    with pytest.raises(EvaluationError, match=f"{FACTS_FILE}: {next(iter(change))}: "):
        load_evaluator(folder, CPU)


def test_pictures_of_another_shape_are_refused_by_name(evaluator: Evaluator, train: ImageData) -> None:
    colour = dataclasses.replace(train, images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(EvaluationError, match=r"the images are 3 x 32 x 32, .* of fashion-mnist takes 1 x 28 x 28"):
        evaluator.predict(colour.images)
