import json
from pathlib import Path

import pytest

from tests.trainer.conftest import EMOJI
from trainer.__main__ import main
from trainer.run.loop import TrainingRun


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("judge")
    assert main(["judge", "--data-dir", str(EMOJI), "--epochs", "2", "--precision", "fp32", "--out", str(folder)]) == 0
    return folder


def test_a_judge_is_trained_and_says_how_far_it_can_be_trusted(judge_folder: Path) -> None:
    facts = json.loads((judge_folder / "judge.json").read_text())
    assert facts["command"] == "python -m trainer judge --dataset emoji --epochs 2 --seed 0 --precision fp32"
    assert set(facts["recall"]) == {"training", "combination"}, "three unseen names are too few to be scored"


def test_a_run_is_scored_by_groups(
    judge_folder: Path, text_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "scores.json"
    options = ["--evaluator", str(judge_folder), "--data-dir", str(EMOJI), "--samples", "1000", "--json", str(report)]
    assert main(["evaluate", str(text_run.folder), *options, "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| | training | combination |" in printed
    assert "| pictures | 58 | 6 |" in printed
    written = json.loads(report.read_text())
    assert [each["group"] for each in written["groups"]] == ["training", "combination"]
    assert written["sampler"] == "dpmpp_2m 1 step, guidance 3"
    assert 0.0 <= written["groups"][0]["recall"] <= 1.0


def test_a_judge_is_replaced_only_when_that_is_said(judge_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--data-dir", str(EMOJI), "--epochs", "2", "--out", str(judge_folder)]) == 1
    assert "add --overwrite" in capsys.readouterr().err


def test_data_without_captions_have_no_judge(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--dataset", "fashion-mnist"]) == 1
    assert "its pictures have no captions" in capsys.readouterr().err


def test_a_missing_judge_is_named(text_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(text_run.folder), "--evaluator", str(tmp_path), "--data-dir", str(EMOJI)]) == 1
    assert "judge.json" in capsys.readouterr().err
