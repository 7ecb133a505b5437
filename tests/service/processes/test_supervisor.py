"""What the supervisor decides before it starts a process."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.processes.supervisor import api_servers
from service.settings import Settings


@pytest.mark.parametrize(("asked", "cores", "processes"), [(3, 1, 3), ("auto", 1, 1), ("auto", 7, 1), ("auto", 64, 16)])
def test_api_processes_are_those_of_the_setting_or_one_for_four_cores(
    asked: int | str, cores: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.processes.supervisor.usable_cores", lambda: cores)
    assert api_servers(Settings(api_servers=asked)) == processes


@pytest.mark.parametrize("wrong", [0, -1, 65])
def test_impossible_numbers_of_api_processes_are_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 64"):
        Settings(api_servers=wrong)


def test_the_supervisor_loads_nothing_that_computes() -> None:
    """It would hold 170 MB for it, and the parent of all processes should have as little in it as possible."""
    script = "import sys, service.processes.supervisor; print(*{'torch', 'numpy', 'PIL'} & {*sys.modules})"
    root = Path(__file__).parents[3]
    loaded = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
