import json
from pathlib import Path

import pytest

from tests.trainer.conftest import EMOJI
from trainer.__main__ import main
from trainer.run.loop import TrainingRun


def test_a_run_is_scored_by_groups_and_continued(
    evaluator_folder: Path, text_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, pictures = tmp_path / "scores.json", tmp_path / "pictures"
    command = ["evaluate", str(text_run.folder), "--evaluator", str(evaluator_folder), "--data-dir", str(EMOJI)]
    command += ["--samples", "20", "--json", str(report), "--pictures", str(pictures), "--steps", "1"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| | training | combination | colour rules |" in printed
    assert "| pictures | 20 | 6 |" in printed
    written = json.loads(report.read_text())
    assert [each["scores"]["group"] for each in written["points"]] == ["training", "combination", "colour rules"]
    assert [each["sampler"] for each in written["points"]] == ["dpmpp_2m 1 step, guidance 3"] * 3
    assert 0.0 <= written["points"][0]["scores"]["recall"] <= 1.0
    sheet = pictures / "combination-dpmpp-2m-1-step-guidance-3.png"
    sheet.unlink()
    assert main([*command, "--guidance-scale", "1,3"]) == 0
    assert len(json.loads(report.read_text())["points"]) == 6
    assert not sheet.exists(), "known points are not measured again"
    assert (pictures / "combination-dpmpp-2m-1-step.png").is_file()
    assert (pictures / f"{text_run.folder.name}-guidance-scale.png").is_file()


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
