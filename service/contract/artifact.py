"""The files that a manifest names. The bytes that are hashed are the bytes that are used."""

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from service.contract.files import ContractError, open_regular_file, replacing
from service.contract.manifest import Artifact, LatentCodes, Manifest, artifact_file, latents_file
from service.contract.records import HashedFile
from service.contract.text import WordsFile, words_file


class ArtifactError(ContractError):
    """A file is missing, not regular, or not the one that its manifest names."""


def read_artifact(directory: Path, named: HashedFile) -> bytes:
    """Read a file that a manifest names, once, and check its bytes: a second read could return another file.

    Raises:
        ArtifactError: the file is missing, a symbolic link or not regular, or its size or SHA-256 differs.
    """
    path = directory / named.file
    payload = _read_of_size(path, named.size)
    if hashlib.sha256(payload).hexdigest() != named.sha256:
        raise ArtifactError(path, f"its SHA-256 is not {named.sha256}")
    return payload


def check_files(directory: Path, manifest: Manifest) -> None:
    """Raise ArtifactError unless every file that the manifest names exists with the named size and SHA-256."""
    for named in files_of(manifest):
        read_artifact(directory, named)


def files_of(manifest: Manifest) -> Sequence[HashedFile]:
    """The files that the manifest names; none of a diffusers folder, of whose files its manifest is made."""
    if manifest.artifact.format == "diffusers":
        return ()
    words = None if manifest.text is None else manifest.text.words
    return [named for named in (manifest.artifact, manifest.latents, words) if named is not None]


def write_artifact(directory: Path, payload: bytes) -> Artifact:
    """Write TorchScript weights to `directory`/model-<sha8>.pt; earlier files are kept for a rollback.

    Raises:
        ArtifactError: the file reads back differently.
    """
    sha256 = hashlib.sha256(payload).hexdigest()
    artifact = Artifact(format="torchscript", file=artifact_file(sha256), size=len(payload), sha256=sha256)
    _write(directory / artifact.file, payload, sha256)
    return artifact


def write_latents(directory: Path, payload: bytes) -> LatentCodes:
    """Write codes to `directory`/latents-<sha8>.npz, as `write_artifact` writes weights. Raises ArtifactError."""
    sha256 = hashlib.sha256(payload).hexdigest()
    latents = LatentCodes(file=latents_file(sha256), size=len(payload), sha256=sha256)
    _write(directory / latents.file, payload, sha256)
    return latents


def write_words(directory: Path, payload: bytes) -> WordsFile:
    """Write a `Words` to `directory`/words-<sha8>.json, as `write_artifact` writes weights. Raises ArtifactError."""
    sha256 = hashlib.sha256(payload).hexdigest()
    words = WordsFile(file=words_file(sha256), size=len(payload), sha256=sha256)
    _write(directory / words.file, payload, sha256)
    return words


def _write(path: Path, payload: bytes, sha256: str) -> None:
    with replacing(path, payload) as written:
        if hashlib.sha256(written.read_bytes()).hexdigest() != sha256:
            raise ArtifactError(path, "reads back with another SHA-256 than was written")


def _read_of_size(path: Path, size: int) -> bytes:
    try:
        with open_regular_file(path, follow_links=False) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:  # before the read: both sizes could exceed the memory
                raise ArtifactError(path, f"{found} bytes, but its manifest says {size}")
            return file.read(size)
    except OSError as failure:
        reason = "a symbolic link" if failure.errno == errno.ELOOP else failure.strerror
        raise ArtifactError(path, reason or "cannot be read") from failure
