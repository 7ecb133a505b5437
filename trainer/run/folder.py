"""The folder of a run: locked by the process that writes it, and cleared only on request."""

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
    """The folder cannot be used for a run; the message says why."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Inside, ``run`` exists and no other process can lock it; a new folder is removed again if it stays empty.

    The kernel releases the lock when the process ends for any reason. Raises FolderError when it is held already.
    """
    created = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(run)
    try:
        for partial in run.glob(f".{checkpoint.FILE_NAME}.*"):  # left by a process that was killed while saving
            partial.unlink(missing_ok=True)
        yield
    finally:
        (run / LOCK_FILE).unlink(missing_ok=True)
        os.close(descriptor)
        if created:
            with suppress(OSError):  # it is not empty
                run.rmdir()


def clear(run: Path) -> None:
    """Remove the files that a run wrote to ``run``, and nothing else."""
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
                f"{run} is in use by another training process ({owner or 'just started'}): choose another --out"
            ) from failure
        if _is_at(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"PID {os.getpid()}".encode())
            return descriptor
        os.close(descriptor)  # the owner removed the file between the two calls: the lock is on a deleted file
    raise FolderError(f"{path} cannot be locked: other processes keep replacing it")


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
