"""Atomic writing of files, with errors that name the file."""

from pathlib import Path

from service.contract.files import replacing


def write(path: Path, payload: bytes) -> None:
    """Replace ``path`` atomically, creating its folder. Raises OSError with the file's name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, payload):
            pass
    except OSError as failure:  # the error of a full disk names no file
        raise OSError(failure.errno, failure.strerror, str(path)) from failure
