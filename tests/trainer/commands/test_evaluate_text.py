import json
from pathlib import Path

import pytest

from tests.trainer.conftest import EMOJI
from trainer.__main__ import main
from trainer.run.loop import TrainingRun


@pytest.fixture(scope="module")
def evaluator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("text-evaluator")
    assert (
        main(["text-evaluator", "--data-dir", str(EMOJI), "--epochs", "2", "--precision", "fp32", "--out", str(folder)])
        == 0
    )
    return folder


def test_an_evaluator_is_trained_and_says_how_far_it_can_be_trusted(evaluator_folder: Path) -> None:
    facts = json.loads((evaluator_folder / "text-evaluator.json").read_text())
    assert facts["command"] == "python -m trainer text-evaluator --dataset emoji --epochs 2 --seed 0 --precision fp32"
    assert set(facts["recall"]) == {"training", "combination"}, "three unseen names are too few to be scored"


def test_a_run_is_scored_by_groups(
    evaluator_folder: Path, text_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "scores.json"
    options = [
        "--evaluator",
        str(evaluator_folder),
        "--data-dir",
        str(EMOJI),
        "--samples",
        "1000",
        "--json",
        str(report),
    ]
    assert main(["evaluate", str(text_run.folder), *options, "--samples", "1000", "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| | training | combination |" in printed
    assert "| pictures | 58 | 6 |" in printed
    written = json.loads(report.read_text())
    assert [each["group"] for each in written["groups"]] == ["training", "combination"]
    assert written["sampler"] == "dpmpp_2m 1 step, guidance 3"
    assert 0.0 <= written["groups"][0]["recall"] <= 1.0


def test_an_evaluator_is_replaced_only_when_that_is_said(
    evaluator_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text-evaluator", "--data-dir", str(EMOJI), "--epochs", "2", "--out", str(evaluator_folder)]) == 1
    assert "add --overwrite" in capsys.readouterr().err


def test_data_without_captions_have_no_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text-evaluator", "--dataset", "fashion-mnist"]) == 1
    assert "its images have no captions" in capsys.readouterr().err


def test_a_missing_evaluator_is_named(
    text_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(text_run.folder), "--evaluator", str(tmp_path), "--data-dir", str(EMOJI)]) == 1
    assert "text-evaluator.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--write"], ["--inception", "network.pt"], ["--unconditional"], ["--against", "train"]]
)
def test_options_without_effect_are_rejected(
    option: list[str], text_run: TrainingRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(text_run.folder), "--data-dir", str(EMOJI), *option]) == 1
    assert f"{option[0]}" in capsys.readouterr().err


def test_scores_do_not_select_the_weights_of_a_text_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-dir", str(EMOJI), "--steps", "1", "--batch-size", "2", "--precision", "fp32", "--device", "cpu"]
    options += ["--out", str(tmp_path / "run")]
    assert main(["train", "emoji", *options, "--evaluator", str(tmp_path)]) == 1
    assert "--evaluator: the weights of a text-to-image run are not selected" in capsys.readouterr().err
