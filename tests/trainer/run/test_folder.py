"""A run's folder has one owner, and what was in it stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.run import checkpoint
from trainer.run.folder import EVENTS, LOCK_FILE, SAMPLES, FolderError, clear, locked

ROOT = Path(__file__).parents[3]


def test_a_second_claim_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    refused = pytest.raises(FolderError, match=r"in use by another training process \(PID \d+\)")
    with locked(tmp_path / "run"), refused, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).exists()


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    code = "import os; from pathlib import Path; from trainer.run.folder import locked\n"
    code += f"with locked(Path({str(tmp_path)!r})): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 9
    assert (tmp_path / LOCK_FILE).exists()
    (tmp_path / f".{checkpoint.FILE_NAME}.half").write_bytes(b"half of a checkpoint")
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_nothing_was_written_goes_again_and_any_other_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "new"):
        pass
    with locked(tmp_path / "used"):
        (tmp_path / "used" / checkpoint.FILE_NAME).touch()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_a_cleared_folder_keeps_what_no_run_wrote(tmp_path: Path) -> None:
    ours = [checkpoint.FILE_NAME, f"{SAMPLES}/epoch-002.png", f"{EVENTS}/events.out.tfevents.1"]
    theirs = ["notes.txt", f"{SAMPLES}/favourite.png"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == sorted(theirs)
