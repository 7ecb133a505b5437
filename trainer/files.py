"""Writing files: each is the old one or the whole new one, and a failure names the file and the reason."""

from pathlib import Path

from service.contract.files import replacing


def write(path: Path, payload: bytes) -> None:
    """Replace ``path``, making its folder. Raises OSError, always with the file's name, when that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, payload):
            pass
    except OSError as failure:  # of a full disk it names no file
        raise OSError(failure.errno, failure.strerror, str(path)) from failure
