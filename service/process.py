"""The process on its machine: cores, allocator, garbage collector and scheduler."""

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# From glibc's malloc.h. 32 MiB is the largest threshold that glibc accepts.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 1 << 30
STEP_BYTES = 64 << 20
MAPPED_BYTES = 32 << 20

# From Linux's prctl.h.
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15

#: gc.set_threshold: allocations per collection of the youngest generation, and collections per one of the next.
COLLECT_AFTER = (10_000, 20, 50)

#: The nice value of threads that give way: about a tenth of the share of others.
LOW_PRIORITY = 10

#: A container's CPU quota (cgroup v2): microseconds of processor time per period, and the period.
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: Files of a control group, versions 2 and 1: its limit of memory, what it uses, and in memory.stat its unused pages.
MEMORY_FILES = ("memory.max", "memory.current", "inactive_file")
MEMORY_FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def cores() -> list[int]:
    """The numbers of the processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores(quota_file: Path = QUOTA_FILE) -> int:
    """How many of ``cores`` can be kept busy: all, or the whole cores of a container's quota; at least 1.

    A container with a quota (`docker run --cpus`, a limit of Kubernetes) sees every core of its host, and is paused for
    the rest of each period once it has used the quota up.
    """
    try:
        quota, period = quota_file.read_text().split()
        worth = len(cores()) if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or another format
        return len(cores())
    return max(1, min(len(cores()), worth))


def available_bytes(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Bytes that can be allocated without swapping: what the machine has, or less within a limit of its control groups.

    A container with a memory limit sees the memory of its host, and is killed beyond its limit.
    """
    return min([_available_on_machine(proc), *_available_in_groups(proc, groups)])


def _available_on_machine(proc: Path) -> int:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available_in_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What each limit leaves, of the process's group and of those around it."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root, names = groups, MEMORY_FILES
        elif "memory" in controllers.split(","):
            root, names = groups / "memory", MEMORY_FILES_V1
        else:
            continue
        # The path is that on the host. Where a container sees only its own group, that is the root.
        own = root / path.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root) and (left := _left(folder, *names)) is not None:
                yield left


def _left(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """What a group may still allocate; None without a limit. Unused pages of files are given up when needed."""
    try:
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(0, most - now + int(fields.get(cache, 0)))


def keep_memory() -> None:
    """Keep the memory that a forward pass frees for the next one.

    glibc returns large blocks to the kernel, so every forward pass page-faults them in again: up to a tenth of its time
    at 16 rows, by model (`make bench-prepare`). Other C libraries are not changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (
            (M_MMAP_THRESHOLD, MAPPED_BYTES),
            (M_TRIM_THRESHOLD, KEPT_BYTES),
            (M_TOP_PAD, STEP_BYTES),
        ):
            mallopt(parameter, value)


def freeze_objects() -> None:
    """Exclude all existing objects from garbage collection, because traversing them stops every thread.

    Requests create few cycles, so the collector also runs less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def use_batch_scheduling() -> None:
    """Schedule the calling thread as SCHED_BATCH: it does not preempt the thread that wakes it, and keeps its share.

    The event loop wakes an engine thread and continues with its next request. On one core the engine thread would
    preempt it at once, only to wait for the interpreter's lock that the loop holds. No effect where it is not allowed.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def lower_priority() -> None:
    """Have the calling thread give way to others, which it cannot undo. No effect where it is not supported."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)


def raise_file_limit() -> int:
    """Let this process have as many files and sockets open as it may; returns how many. The default is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def pin_to_core(core: int) -> None:
    """Pin the calling thread to one core. No effect where it is not supported."""
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {core})


def trim_memory() -> None:
    """Return freed memory to the kernel: an unloaded model frees more than later forward passes need."""
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def name_process(name: str) -> None:
    """Name this process for `ps` and `top`: 15 bytes are kept. Call it in the main thread. No effect outside Linux."""
    _prctl(PR_SET_NAME, ctypes.create_string_buffer(name.encode()[:15]))


def end_with_parent() -> None:
    """Let the kernel kill this process when the thread that forked it ends. No effect outside Linux.

    Unlike a thread that watches the parent, this also ends a process that hangs with the interpreter's lock held.
    """
    _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def _prctl(option: int, argument: "ctypes.Array[ctypes.c_char] | ctypes.c_ulong") -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, argument)
