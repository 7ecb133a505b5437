"""What is asked of the process: in processes of their own, for it concerns all that a process does."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from service.process import available_bytes, cores, pin_to_core, usable_cores, use_batch_scheduling

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
from service.process import freeze_objects
kept = [[number] for number in range(1000)]
before = gc.get_threshold()
assert gc.get_freeze_count() == 0
freeze_objects()
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
from service.process import freeze_objects
freeze_objects()
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
from service.process import trim_memory, keep_memory
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
trim_memory()
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


@pytest.mark.parametrize(
    ("ask", "call"), [(use_batch_scheduling, "sched_setscheduler"), (partial(pin_to_core, 0), "sched_setaffinity")]
)
def test_a_system_that_forbids_scheduling_is_left_as_it_is(
    ask: Callable[[], None], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def forbid(*arguments: object) -> None:
        asked.append(arguments)
        raise PermissionError

    monkeypatch.setattr(os, call, forbid, raising=False)
    ask()
    monkeypatch.delattr(os, call)
    ask()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("quota", "worth"),
    [
        ("max 100000", 4),
        ("300000 100000", 3),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 4),
        # Of another form than is known: as without a quota.
        ("", 4),
        ("300000", 4),
        ("300000 0", 4),
        ("most 100000", 4),
    ],
)
def test_a_containers_quota_bounds_what_its_cores_are_worth(
    quota: str, worth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {8, 0, 3, 5}, raising=False)
    file = tmp_path / "cpu.max"
    assert (cores(), usable_cores(file)) == ([0, 3, 5, 8], 4)
    file.write_text(f"{quota}\n")
    assert usable_cores(file) == worth


def test_a_system_that_binds_no_process_has_all_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert (cores(), usable_cores(tmp_path / "none")) == ([0, 1, 2], 3)


def test_another_c_library_is_left_as_it_is() -> None:
    assert run(
        """
import ctypes
from types import SimpleNamespace
from service.process import trim_memory, keep_memory
ctypes.CDLL = lambda name: SimpleNamespace()
keep_memory()
trim_memory()
print(1)
"""
    ) == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_process_has_the_first_bytes_of_its_name() -> None:
    script = "from service.process import name_process; name_process('genserve-engine-0')"
    script += "; print(*open('/proc/self/comm', 'rb').read().strip())"
    assert bytes(run(script)) == b"genserve-engine"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_process_ends_with_its_parent_although_it_ignores_signals() -> None:
    script = """
import os, signal, time
from service.process import end_with_parent
ready, tell = os.pipe()
if os.fork() == 0:
    end_with_parent()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    os.write(tell, b"1")
    time.sleep(60)
os.read(ready, 1)
"""
    # Standard output ends only when the last process that holds it has ended.
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, timeout=30, check=False)
    assert (process.returncode, process.stderr) == (0, b"")


def groups_of(folder: Path, files: dict[str, str], cgroup: str) -> tuple[Path, Path]:
    """Files of /proc and /sys/fs/cgroup of a machine with 1,000 KiB to spare."""
    written = {"proc/meminfo": "MemTotal: 2000 kB\nMemAvailable: 1000 kB\n", "proc/self/cgroup": cgroup}
    for name, text in (written | {f"groups/{name}": text for name, text in files.items()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "proc", folder / "groups"


def limited(folder: str, limit: object, used: int = 300_000, unused_pages: int = 0) -> dict[str, str]:
    files = {"memory.max": f"{limit}\n", "memory.current": f"{used}\n"}
    files |= {"memory.stat": f"anon 1\ninactive_file {unused_pages}\n"}
    return {f"{folder}{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "cgroup", "left"),
    [
        ({}, "0::/\n", 1_024_000),
        (limited("", 500_000), "0::/\n", 200_000),
        (limited("", 500_000, unused_pages=50_000), "0::/\n", 250_000),
        (limited("", 200_000), "0::/\n", 0),
        (limited("", "max"), "0::/\n", 1_024_000),
        (limited("", 9_000_000), "0::/\n", 1_024_000),
        (limited("a/b/", "max") | limited("a/", 400_000), "0::/a/b\n", 100_000),
        (limited("", 400_000), "0::/docker/of-the-host\n", 100_000),
        (
            {
                "memory/x/memory.limit_in_bytes": "400000\n",
                "memory/x/memory.usage_in_bytes": "350000\n",
                "memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 20000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            "5:cpu,cpuacct:/x\n4:memory:/x\n0::/x\n",
            70_000,
        ),
        (limited("", 400_000) | {"memory.stat": ""}, "0::/\n", 100_000),
        ({"memory.max": "400000"}, "0::/\n", 1_024_000),
    ],
)
def test_free_memory_is_within_the_limits_of_control_groups(
    tmp_path: Path, files: dict[str, str], cgroup: str, left: int
) -> None:
    assert available_bytes(*groups_of(tmp_path, files, cgroup)) == left


def test_where_there_is_no_proc_all_memory_counts(tmp_path: Path) -> None:
    assert available_bytes(tmp_path, tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
