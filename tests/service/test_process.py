"""What is asked of the process: in processes of their own, for it concerns all that a process does."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.process import let_others_finish

ROOT = Path(__file__).parents[2]
GLIBC = hasattr(ctypes.CDLL(None), "mallopt")


def run(script: str) -> list[int]:
    """The numbers that a script prints."""
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (printed.returncode, printed.stderr) == (0, "")
    return [int(number) for number in printed.stdout.split()]


def test_what_is_there_is_left_out_of_collections_and_they_come_less_often() -> None:
    frozen, before, after = run(
        """
import gc
from service.process import settle
kept = [[number] for number in range(1000)]
before = gc.get_threshold()
assert gc.get_freeze_count() == 0
settle()
assert all(more > less for less, more in zip(before, gc.get_threshold(), strict=True))
assert gc.isenabled()
print(gc.get_freeze_count(), before[0], gc.get_threshold()[0])
"""
    )
    assert frozen > 1000
    assert after > 10 * before


def test_cycles_made_afterwards_are_still_collected() -> None:
    (collected,) = run(
        """
import gc
from service.process import settle
settle()
for _ in range(100):
    cycle = []
    cycle.append(cycle)
del cycle
print(gc.collect())
"""
    )
    assert collected >= 100


FAULTS = """
import ctypes, resource, threading
from service.process import keep_memory
{keep}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 24 << 20

def call():
    blocks = [libc.malloc(size) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in reversed(blocks):
        libc.free(block)

def work():
    for _ in range(3):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        call()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


GIVEN_BACK = """
import ctypes
from pathlib import Path
from service.process import give_memory_back, keep_memory
keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

blocks = [libc.malloc(8 << 20) for _ in range(16)]
for block in blocks:
    ctypes.memset(block, 1, 8 << 20)
for block in blocks:
    libc.free(block)
print(resident_mib())
give_memory_back()
print(resident_mib())
"""


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_memory_that_is_kept_can_be_given_back() -> None:
    before, after = run(GIVEN_BACK)
    assert after < before - 100  # of 128 MiB


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_memory_that_was_freed_is_kept_for_the_next_call() -> None:
    """Four blocks of 24 MiB, over and over, in a thread: their pages are faulted in once, and not for every call."""
    (without,), (kept,) = (run(FAULTS.format(keep=keep)) for keep in ("", "keep_memory()"))
    assert kept < 100
    assert without > 10 * kept


def test_a_system_that_forbids_another_schedule_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def forbid(*arguments: object) -> None:
        asked.append(arguments)
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbid, raising=False)
    let_others_finish()
    monkeypatch.delattr(os, "sched_setscheduler")
    let_others_finish()
    assert len(asked) == 1


def test_another_c_library_is_left_as_it_is() -> None:
    assert run(
        """
import ctypes
from types import SimpleNamespace
from service.process import give_memory_back, keep_memory
ctypes.CDLL = lambda name: SimpleNamespace()
keep_memory()
give_memory_back()
print(1)
"""
    ) == [1]
