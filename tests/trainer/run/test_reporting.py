"""Progress lines of a run without a terminal."""

import re
from pathlib import Path

import pytest

from tests.trainer.conftest import FileSizeLimit, MakeRun
from trainer.run import reporting
from trainer.run.schedule import Plan


def test_a_run_elsewhere_than_on_a_terminal_writes_a_line_an_epoch(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("vae", tmp_path, epochs=3, grid_every=3).fit()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [re.sub(r": .*", "", line) for line in lines] == [
        "epoch 1/3, step 4/12",
        "epoch 2/3, step 8/12",
        "epoch 3/3, step 12/12",
        "epoch 3",
    ]
    assert re.search(r": reconstruction .*, kl .*; \d+ min \d+ s left$", lines[0])


def test_a_long_run_of_short_epochs_writes_few_lines(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MOST_LINES", 2)
    make_run("vae", tmp_path, epochs=5, grid_every=5).fit()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split(",")[0] for line in lines] == ["epoch 3/5", "epoch 5/5", "epoch 5: drawing samples"]


def test_a_full_disk_is_reported_with_the_folder_of_the_events(tmp_path: Path, file_size_limit: FileSizeLimit) -> None:
    """By the thread that trains, whose error stops the run."""
    failure = pytest.raises(OSError, match=r"File too large: .*events")
    with failure, file_size_limit(1), reporting.reporting(tmp_path / "events", Plan(2, 1), "vae", 1, 0) as report:
        report.step(1, {"loss": 1.0})
