"""What a process that serves has of its machine, and asks of allocator, garbage collector and scheduler."""

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

# From glibc's malloc.h. 32 MiB is the largest threshold that glibc takes.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT_BYTES = 1 << 30
STEP_BYTES = 64 << 20
MAPPED_BYTES = 32 << 20

#: Objects made between two collections of the youngest generation, and of each next one in collections of the last.
COLLECT_AFTER = (10_000, 20, 50)

#: Where Linux tells a container's quota (cgroup v2): microseconds of processor time in each period, and the period.
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def cores() -> list[int]:
    """The processor cores that this process may run on, by the system's numbers."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores(quota_file: Path = QUOTA_FILE) -> int:
    """How many of ``cores`` can be kept busy, at least 1: all, or what a container's quota comes to in whole ones.

    A container with a quota (`docker run --cpus`, a limit of Kubernetes) sees every core of its host, and is stopped
    for the rest of each period once all of them together have used it up.
    """
    try:
        quota, period = quota_file.read_text().split()
        worth = len(cores()) if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or of another form
        return len(cores())
    return max(1, min(len(cores()), worth))


def keep_memory() -> None:
    """Keep what a network call frees for the next one.

    glibc gives large blocks back to the kernel, so that every call faults its pages in anew: up to a tenth of the time
    of a call of 16 rows, by model (`make bench-prepare`). Another C library is left as it is.
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
    """Take everything made so far out of garbage collection: it stays, and looking through it stops every thread.

    Cycles are rare in what a request makes, so the collector may also come less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def use_batch_scheduling() -> None:
    """Have the calling thread not interrupt whoever wakes it (Linux's SCHED_BATCH); its share of time stays.

    The event loop wakes an engine thread and goes on with its next request. On one core the thread would take the core
    from it at once, to wait for the interpreter's lock that the loop still holds. Another system, or one that forbids
    it, is left as it is.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def pin_to_core(core: int) -> None:
    """Have the calling thread run on no other core. A system that cannot is left as it is."""
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {core})


def trim_memory() -> None:
    """Return to the kernel what was freed: after a model has gone, that is more than the next call can use."""
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
