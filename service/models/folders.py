"""The folders of models: which there are, and why one cannot be served. Loads no torch: the supervisor uses it."""

import os
from pathlib import Path

from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, is_model_name, read_manifest
from service.contract.records import DIFFUSERS_FILE
from service.models.diffusers.folder import is_diffusers_folder
from service.models.diffusers.version import stamps_of


class Unusable(Exception):
    """A model cannot be served; ``str()`` is one line with the file or folder and the reason."""


def model_directories(weights: Path) -> dict[str, Path]:
    """The folders in ``weights`` that have a manifest, or are in diffusers' format, by name.

    An unreadable manifest counts, so that its model is reported as rejected instead of missing. Raises OSError when
    ``weights`` cannot be listed.
    """
    with os.scandir(weights) as entries:
        return {entry.name: Path(entry.path) for entry in sorted(entries, key=_name) if _has_manifest(entry)}


def read_any_manifest(directory: Path) -> Manifest:
    """The manifest of a model's folder; of a diffusers folder, made from its files. Raises ContractError."""
    if not is_diffusers(directory):
        return read_manifest(directory)
    from service.models.diffusers.manifest import diffusers_manifest  # with torch: only where there is such a folder

    return diffusers_manifest(directory)


def stamp_of(directory: Path) -> object | None:
    """What changes when the model's files are replaced, without reading them; None where it cannot be read."""
    try:
        if is_diffusers(directory):
            return stamps_of(directory)
        status = (directory / MANIFEST_FILE).stat()
    except (OSError, ContractError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def is_diffusers(directory: Path) -> bool:
    """Whether the service takes the folder for one in diffusers' format."""
    try:
        return is_diffusers_folder(directory) and not (directory / MANIFEST_FILE).exists()
    except OSError:  # no permission: reading the manifest says so
        return False


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _has_manifest(entry: os.DirEntry[str]) -> bool:
    for name in (MANIFEST_FILE, DIFFUSERS_FILE):
        try:
            Path(entry.path, name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # no permission; "lost+found" on many disks is such a folder and not a model
            return is_model_name(entry.name)
        return True
    return False
