from pathlib import Path

import pytest

from benchmarks import machine


def test_busy_is_what_is_neither_idle_nor_waiting_for_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 1000 10 0 0 0 0 0\ncpu0 1 1 1 1\n")
    later = "cpu  140 0 60 1040 20 0 0 0 0 0\ncpu0 2 2 2 2\n"
    monkeypatch.setattr("time.sleep", lambda seconds: stat.write_text(later))
    assert machine.others_busy(1.0, stat) == pytest.approx(0.5)
