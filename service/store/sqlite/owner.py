"""Which process computes a job: an id, and a lock on a file that the kernel frees when the process ends, however.

So a dead process is known at once and for certain: no heartbeat, no clock, and no process id that was used again. A
process that is only slow or stopped keeps its jobs.
"""

import fcntl
import os
from pathlib import Path


class Owner:
    """This process as an owner of jobs in the store at ``path``."""

    def __init__(self, path: Path) -> None:
        self.id = os.urandom(8).hex()
        self._path = _file(path, self.id)
        # Close-on-exec: a child that outlives this process must not hold the lock.
        self._lock = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "rb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def release(self) -> None:
        """Be no owner any more; may be repeated."""
        self._path.unlink(missing_ok=True)
        self._lock.close()


def is_alive(path: Path, id: str) -> bool:
    """Whether the process that is owner ``id`` runs."""
    try:
        file = os.open(_file(path, id), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may look at the same time
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def forget(path: Path, id: str) -> None:
    """Remove the lock file of a dead owner."""
    _file(path, id).unlink(missing_ok=True)


def _file(path: Path, id: str) -> Path:
    return Path(f"{path}-owner-{id}")
