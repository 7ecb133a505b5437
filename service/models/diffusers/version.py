"""The version of a diffusers folder: the same files have the same version on every machine."""

import hashlib
from pathlib import Path

from service.contract.files import open_regular_file
from service.models.diffusers.files import FolderError, scan
from service.models.diffusers.folder import INDEX_FILE, DiffusersFolder

_PART = 1 << 20


def digest_of(folder: DiffusersFolder) -> str:
    """A SHA-256 over everything that pictures depend on; reads all weights once.

    Raises:
        FolderError: a file cannot be read any more.
    """
    digest = hashlib.sha256()
    for path in sorted(_files(folder)):
        digest.update(f"{path.relative_to(folder.path)}\n{_sha256(path)}\n".encode())
    return digest.hexdigest()


def version_of(folder: DiffusersFolder) -> str:
    """The first eight characters of ``digest_of``. Raises FolderError."""
    return digest_of(folder)[:8]


def size_of(folder: DiffusersFolder) -> int:
    """Bytes of the files of ``digest_of``."""
    return sum(path.stat().st_size for path in _files(folder))


def stamps_of(path: Path) -> tuple[object, ...]:
    """What changes when a file of the folder is replaced, without reading any. Raises FolderError or OSError."""
    stamps = []
    for name in sorted(scan(path.resolve(strict=True))):
        status = (path / name).stat()
        stamps.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular_file(path, follow_links=True) as file:
            while part := file.read(_PART):
                digest.update(part)
    except OSError as failure:
        raise FolderError(path, failure.strerror or "cannot be read") from failure
    return digest.hexdigest()


def _files(folder: DiffusersFolder) -> set[Path]:
    networks = list(folder.networks)
    configurations = [network.path / "config.json" for network in networks]
    weights = [file.path for network in networks for file in network.weights]
    tokenizers = [path for text in folder.texts for path in text.tokenizer.glob("[!.]*") if path.is_file()]
    own = [folder.path / INDEX_FILE, folder.path / "scheduler/scheduler_config.json"]
    return {*own, *configurations, *weights, *tokenizers, *(file.path for file in folder.loras.values())}
