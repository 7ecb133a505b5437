"""Durable writes: a file is either the old one or the whole new one, also after a power cut."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ContractError(Exception):
    """A file of a model's directory cannot be used; `str()` is one line naming the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@contextmanager
def replacing(target: Path, payload: bytes) -> Iterator[Path]:
    """Write `payload` to a file beside `target`, yield it to be checked, then rename it onto `target`.

    The rename is the only commit: whatever is raised before it leaves `target` as it was and no file behind.
    """
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # mkstemp's 0600 would shut out a service that runs as another user
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
