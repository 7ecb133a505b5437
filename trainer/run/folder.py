"""The folder of a run: one process writes it at a time, and a run in it is replaced only when that is asked for."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.run import checkpoint

LOCK_FILE = ".lock"
SAMPLES, EVENTS = "samples", "tensorboard"
TRIES = 10


class FolderError(Exception):
    """A run cannot have this folder; the message says why."""


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Inside, ``run`` exists and no other process can claim it; it is removed again when nothing was written.

    The kernel gives the claim up with the process, however that ends. Raises FolderError when another has it.
    """
    made = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(run)
    try:
        for partial in run.glob(f".{checkpoint.FILE_NAME}.*"):  # of a process that was killed while it saved
            partial.unlink(missing_ok=True)
        yield
    finally:
        (run / LOCK_FILE).unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # it is not empty
                run.rmdir()


def clear(run: Path) -> None:
    """Remove the files of the run in ``run``, and nothing else there."""
    for pattern in (checkpoint.FILE_NAME, f"{SAMPLES}/epoch-*.png", f"{EVENTS}/events.out.*"):
        for path in run.glob(pattern):
            path.unlink()


def _lock(run: Path) -> int:
    path = run / LOCK_FILE
    for _ in range(TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            owner = os.read(descriptor, 20).decode(errors="replace")
            os.close(descriptor)
            if not isinstance(failure, BlockingIOError):
                raise
            raise FolderError(
                f"{run} is being trained by another process ({owner or 'just started'}): choose another --out"
            ) from failure
        if _is_at(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"PID {os.getpid()}".encode())
            return descriptor
        os.close(descriptor)  # its owner removed the file between the two calls: what was locked is no longer there
    raise FolderError(f"{path} cannot be locked: other processes keep replacing it")


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
