"""What a process and all its descendants use, from /proc: processor time by role, and memory.

A process that has ended and was waited for counts with its parent, so that its processor time is not lost.
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")

#: How often the processes are looked at when some start or end meanwhile.
TRIES = 100


class Process(NamedTuple):
    """A process: its name, and the processor seconds of it and of its ended children."""

    pid: int
    name: str
    cpu_s: float

    @property
    def role(self) -> str:
        """Its name without a number: "api" of "api-0"."""
        return self.name.rstrip("0123456789").rstrip("-")


def tree(pid: int, proc: Path = PROC) -> list[Process]:
    """``pid`` and its descendants, as they are at one moment. Raises ProcessLookupError when ``pid`` has ended."""
    for _ in range(TRIES):
        pids = _pids(pid, proc)
        try:
            found = [_process(each, proc) for each in pids]
        except OSError:  # one has ended
            continue
        # Else the time of one that ended meanwhile would be counted twice or not at all.
        if pids and _pids(pid, proc) == pids:
            return found
    raise ProcessLookupError(f"process {pid} has ended, or its children start and end all the time")


def cpu_s(pid: int, proc: Path = PROC) -> float:
    """The processor seconds that ``pid`` and its descendants have used, those that ended included."""
    return sum(process.cpu_s for process in tree(pid, proc))


def cpu_s_by_role(pid: int, proc: Path = PROC) -> Counter[str]:
    """As ``cpu_s``, by the role of the processes."""
    seconds: Counter[str] = Counter()
    for process in tree(pid, proc):
        seconds[process.role] += process.cpu_s  # type: ignore[assignment]  # a Counter adds numbers of any kind
    return seconds


def memory_mib(pid: int, proc: Path = PROC) -> float:
    """The memory of ``pid`` and its descendants in MiB, as PSS: a page of several processes counts once."""
    return sum(_pss_kib(process.pid, proc) for process in tree(pid, proc)) / 1024


def named(pid: int, role: str, proc: Path = PROC) -> dict[str, int]:
    """The processes of a role, from name to pid."""
    return {process.name: process.pid for process in tree(pid, proc) if process.role == role}


def _pids(pid: int, proc: Path) -> list[int]:
    """``pid`` and its descendants; none if it has ended."""
    children: list[int] = []
    try:
        for task in (proc / str(pid) / "task").iterdir():
            children += map(int, (task / "children").read_text().split())
    except OSError:
        return []
    return [pid, *(each for child in children for each in _pids(child, proc))]


def _process(pid: int, proc: Path) -> Process:
    about, _, fields = (proc / str(pid) / "stat").read_text().rpartition(")")
    ticks = sum(map(int, fields.split()[11:15]))  # utime, stime, and both of children that were waited for
    return Process(pid, about.partition("(")[2], ticks / os.sysconf("SC_CLK_TCK"))


def _pss_kib(pid: int, proc: Path) -> int:
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended, and holds no memory
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
