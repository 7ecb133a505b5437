"""The files of a model's directory: reads that never block, and atomic, durable writes."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class ContractError(Exception):
    """A file of a model's directory cannot be used; `str()` is one line naming the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def open_regular_file(path: Path, *, follow_links: bool) -> BinaryIO:
    """`path` opened for reading, without blocking.

    Pipes, devices and directories are rejected: reading one could block or never end. Raises OSError where the file
    cannot be opened, is not regular, or is a symbolic link (ELOOP) and `follow_links` is false.
    """
    file = open(path, "rb", opener=_open_following if follow_links else _open_itself)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return file


def _open_following(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a named pipe would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK)


def _open_itself(path: str, flags: int) -> int:
    return _open_following(path, flags | os.O_NOFOLLOW)


@contextmanager
def replacing(target: Path, payload: bytes) -> Iterator[Path]:
    """Write `payload` to a temporary file, yield it to be checked, then rename it onto `target`.

    The rename is the only commit: an exception before it leaves `target` unchanged and no temporary file.
    """
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would exclude a service that runs as another user
            file.write(payload)
            file.flush()
            os.fsync(descriptor)
        yield temporary
        temporary.replace(target)
        _sync_directory(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
