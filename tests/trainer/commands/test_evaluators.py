import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.commands.test_cli import error_of
from tests.trainer.conftest import EMOJI, MakeConfig
from trainer.__main__ import main
from trainer.data.folder import load_folder
from trainer.evaluate import classifier
from trainer.evaluate.evaluator import FACTS_FILE
from trainer.evaluate.measurement import read_json
from trainer.run.loop import TrainingRun


def test_an_evaluator_is_trained_and_used(
    trained: Path,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 200)
    folder = tmp_path / "evaluator"
    assert main(["evaluator", "--epochs", "1", "--out", str(folder), *options[2:]]) == 0
    assert re.search(r"evaluator-\w{8}\.pt: \d+\.\d\d% of 150 test images correct", capsys.readouterr().out)
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert (
        facts["command"] == "python -m trainer evaluator --dataset fashion-mnist --epochs 1 --seed 0 --precision fp32"
    )
    arguments = ["evaluate", str(trained / "weights" / "vae"), "--samples", "100", *options]
    assert main([*arguments, "--evaluator", str(folder)]) == 0
    assert f"evaluator {facts['sha256'][:8]}" in capsys.readouterr().out


def test_an_evaluator_of_a_folder_is_tested_on_its_held_out_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 18)
    for name, value in (("dark", 0), ("bright", 255)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (32, 32), (value, number, number)).save(tmp_path / "photos" / name / f"{number}.png")
    folder = tmp_path / "evaluator"
    arguments = ["--dataset", f"folder:{tmp_path / 'photos'}", "--image-size", "32", "--channels", "3"]
    assert main(["evaluator", *arguments, "--epochs", "1", "--out", str(folder), "--device", "cpu"]) == 0
    assert "of 4 test images correct" in capsys.readouterr().out
    facts = json.loads((folder / FACTS_FILE).read_text())
    wanted = "--dataset folder:PATH --image-size 32 --channels 3 --epochs 1 --seed 0 --precision fp32"
    assert facts["command"] == f"python -m trainer evaluator {wanted}"
    assert (facts["image_shape"], facts["class_names"]) == ([3, 32, 32], ["bright", "dark"])


def test_own_pictures_without_classes_are_scored_by_an_evaluator_of_their_own(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "BATCH_SIZE", 60)
    photos, evaluator, run = tmp_path / "photos", tmp_path / "evaluator", tmp_path / "run"
    photos.mkdir()
    for number in range(220):
        Image.new("L", (28, 28), number).save(photos / f"{number}.png")
    (photos / "broken.png").write_bytes(b"")
    arguments = ["evaluator", "--dataset", f"folder:{photos}", "--epochs", "1", "--device", "cpu"]
    assert main([*arguments, "--out", str(evaluator)]) == 0
    printed = capsys.readouterr()
    assert "the evaluator learns to predict rotations by 90 degrees" in printed.out
    assert "of 22 test images in all four rotations correct" in printed.out
    assert "warning: chance is 25.00%" in printed.err  # a uniform image is equal in all rotations

    images = load_folder(photos, size=28, channels=1)
    TrainingRun(make_config("vae", dataset="folder", epochs=1), images, run, torch.device("cpu")).fit()
    kept = tmp_path / "scores.json"
    options = ["--evaluator", str(evaluator), "--data-dir", str(photos), "--device", "cpu", "--json", str(kept)]
    assert main(["evaluate", str(run), *options]) == 0
    printed = capsys.readouterr()
    assert "run: 198 images, against 22 test images of folder" in printed.out
    assert "real: 198 other real images against the same" in printed.out
    assert "note: 198 images are generated, not 10,000" in printed.err
    assert "warning: 198 images against 22 test images of folder: below 1,000" in printed.err
    assert "unreadable files, left out (1): broken.png" in printed.err
    assert "class_kl" not in read_json(kept).scores


def test_a_text_evaluator_is_trained_and_says_how_far_it_can_be_trusted(evaluator_folder: Path) -> None:
    facts = json.loads((evaluator_folder / "text-evaluator.json").read_text())
    assert facts["command"] == "python -m trainer text-evaluator --dataset emoji --epochs 2 --seed 0 --precision fp32"
    assert set(facts["recall"]) == {"training", "combination"}, "three unseen names are too few to be scored"


def test_an_evaluator_is_replaced_only_when_that_is_said(
    evaluator_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text-evaluator", "--data-dir", str(EMOJI), "--epochs", "2", "--out", str(evaluator_folder)]) == 1
    assert "add --overwrite" in capsys.readouterr().err


def test_data_without_captions_have_no_text_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text-evaluator", "--dataset", "fashion-mnist"]) == 1
    assert "its images have no captions" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "dataset"), [("evaluator", "mnist"), ("text-evaluator", "emoji")])
def test_a_published_set_takes_no_other_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, dataset: str
) -> None:
    options = ["--dataset", dataset, "--image-size", "32", "--out", tmp_path / "evaluator"]
    assert "--image-size and --channels are only for a folder" in error_of(capsys, command, *options)
