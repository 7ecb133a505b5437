"""A private folder for the Unix sockets and mapped files of one running service, in memory where possible."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

_PREFIX = "genserve-"
_NAME = re.compile(re.escape(_PREFIX) + r"\w{8}", re.ASCII)
#: Bytes of a Unix socket's path: sun_path has 108 on Linux and 104 on macOS, the last one is NUL.
SOCKET_PATH_BYTES = 107 if os.uname().sysname == "Linux" else 103
#: Bytes of a file's name that fit in any folder that ``create`` makes.
NAME_BYTES = 40
#: A file that marks a folder as the service's own: a user may have a folder with such a name.
_MARK = "genserve-run"
_TRIES = 10


def _bases() -> list[Path]:
    # Memory first: a page of a mapped file on a disk can block its writer while it is written back.
    return [Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/tmp")]


class RunFolder:
    """A folder that only this user can enter (mode 0700); locked while the process that made it lives.

    The kernel frees the lock when that process ends, however it ends, so that the next service knows what to remove.
    """

    def __init__(self, path: Path, lock: int) -> None:
        """Use ``create``."""
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, bases: Iterable[Path] | None = None) -> Self:
        """A new folder, `genserve-` and 8 characters, in the first of ``bases`` that is writable.

        ``bases`` is /dev/shm and then the temporary folder unless given. Also removes the folders there of this user's
        services that were killed. Raises OSError if none is writable.
        """
        for base in _bases() if bases is None else bases:
            if _is_usable(base):
                _remove_leftovers(base)
                return cls(*_new_folder(base))
        raise OSError(errno.EACCES, "no folder for the service's sockets: /dev/shm and TMPDIR are not writable")

    def file(self, name: str) -> Path:
        """The path of a file or socket in the folder. Raises ValueError unless it is one of up to 40 bytes."""
        if not name or "/" in name or "\0" in name or name in {".", ".."} or len(os.fsencode(name)) > NAME_BYTES:
            raise ValueError(f"name is {name!r}, must be a file's name of at most {NAME_BYTES} bytes")
        return self.path / name

    def remove(self) -> None:
        """Remove the folder and what is in it; nothing happens the second time."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _is_usable(base: Path) -> bool:
    longest = len(os.fsencode(base)) + len(f"/{_PREFIX}12345678/") + NAME_BYTES
    return longest <= SOCKET_PATH_BYTES and base.is_dir() and os.access(base, os.W_OK | os.X_OK)


def _new_folder(base: Path) -> tuple[Path, int]:
    """A new folder and its lock."""
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        with suppress(BlockingIOError, FileNotFoundError):  # another service took the unlocked folder for a leftover
            lock = _lock(path)
            (path / _MARK).touch()
            return path, lock
    raise OSError(errno.EBUSY, f"cannot keep a folder in {base}: something removes each at once")


def _lock(path: Path) -> int:
    """Lock a folder of this user; the lock ends when the descriptor is closed.

    Raises BlockingIOError if its service lives, FileNotFoundError if it is removed meanwhile, PermissionError if it is
    another user's, OSError if it is no folder.
    """
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "another user's folder", str(path))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.lstat()
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove_leftovers(base: Path) -> None:
    for path in base.glob(_PREFIX + "*"):
        if _NAME.fullmatch(path.name):
            with suppress(OSError):
                lock = _lock(path)
                _remove(path)
                os.close(lock)


def _remove(path: Path) -> None:
    """Remove a locked folder that is ours, or empty because its service was killed while it started."""
    if (path / _MARK).exists():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.rmdir()
