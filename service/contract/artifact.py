"""The weights' file, read and written so that the bytes that were hashed are the bytes that are used."""

import errno
import hashlib
import os
import stat
from pathlib import Path

from service.contract.files import ContractError, replacing
from service.contract.manifest import Artifact, Manifest, artifact_file


class ArtifactError(ContractError):
    """The weights' file is missing, is no regular file, or is not the one its manifest names."""


def read_artifact(directory: Path, manifest: Manifest) -> bytes:
    """Read the weights once and check those very bytes: a second read could see another file.

    Raises:
        ArtifactError: the file is missing, a symbolic link or not regular, or its size or SHA-256 differs.
    """
    path = directory / manifest.artifact.file
    payload = _read_regular_file(path, manifest.artifact.size)
    if hashlib.sha256(payload).hexdigest() != manifest.artifact.sha256:
        raise ArtifactError(path, f"its SHA-256 is not {manifest.artifact.sha256}")
    return payload


def write_artifact(directory: Path, payload: bytes) -> Artifact:
    """Write TorchScript weights to `directory`/model-<sha8>.pt; earlier files stay, for a rollback.

    Raises:
        ArtifactError: what the disk gives back is not what was written.
    """
    sha256 = hashlib.sha256(payload).hexdigest()
    path = directory / artifact_file(sha256)
    artifact = Artifact(format="torchscript", file=path.name, size=len(payload), sha256=sha256)
    with replacing(path, payload) as written:
        if hashlib.sha256(written.read_bytes()).hexdigest() != sha256:
            raise ArtifactError(path, "read back, its SHA-256 is not that of what was written")
    return artifact


def _read_regular_file(path: Path, size: int) -> bytes:
    try:
        with open(path, "rb", opener=_open_as_it_is) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(path, "not a regular file")
            if status.st_size != size:  # before the read: an endless file must not fill the memory
                raise ArtifactError(path, f"{status.st_size} bytes where its manifest says {size}")
            return file.read(size)
    except OSError as failure:
        reason = "a symbolic link" if failure.errno == errno.ELOOP else failure.strerror
        raise ArtifactError(path, reason or "cannot be read") from failure


def _open_as_it_is(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a named pipe would otherwise wait for its writer.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
