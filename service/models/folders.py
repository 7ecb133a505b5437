"""The folders of models: which there are, and why one cannot be served. Loads no torch: the supervisor uses it."""

import os
from collections.abc import Sequence
from pathlib import Path

from service.contract.artifact import files_of
from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, is_model_name, read_manifest
from service.contract.records import DIFFUSERS_FILE
from service.contract.signature import Trust, signature_of
from service.models.diffusers.folder import is_diffusers_folder
from service.models.diffusers.version import stamps_of
from service.settings import Settings


class Unusable(Exception):
    """A model cannot be served; ``str()`` is one line with the file or folder and the reason."""


def model_directories(weights: Path) -> dict[str, Path]:
    """The folders in ``weights`` that have a manifest, or are in diffusers' format, by name.

    An unreadable manifest counts, so that its model is reported as rejected instead of missing. Raises OSError when
    ``weights`` cannot be listed.
    """
    with os.scandir(weights) as entries:
        return {entry.name: Path(entry.path) for entry in sorted(entries, key=_name) if _has_manifest(entry)}


def trust_of(settings: Settings) -> Trust:
    """Whose manifests the service uses."""
    return Trust(settings.signing_keys, settings.require_signature)


def read_any_manifest(directory: Path, trust: Trust) -> Manifest:
    """The manifest of a model's folder, signed as ``trust`` demands; of a diffusers folder, made from its files.

    Raises ContractError; also for a diffusers folder if a signature is required: what is made has none.
    """
    if not is_diffusers(directory):
        manifest = read_manifest(directory, trust)
        check_name(directory, manifest)
        return manifest
    if trust.required:
        raise ContractError(directory, "not signed: folders in diffusers' format cannot be")
    from service.models.diffusers.manifest import diffusers_manifest  # with torch: only where there is such a folder

    return diffusers_manifest(directory)


def check_name(directory: Path, manifest: Manifest) -> None:
    """Raise ContractError unless the manifest is of the model with the folder's name."""
    if manifest.name != directory.name:
        raise ContractError(directory / MANIFEST_FILE, f"name: {manifest.name} in a folder named {directory.name}")


class Stamps:
    """What changes when a file of a model is replaced, damaged or deleted, without reading the weights."""

    def __init__(self) -> None:
        #: By folder, the stamps of its manifest, and the files that the manifest names.
        self._named: dict[Path, tuple[object, Sequence[str]]] = {}

    def of(self, directory: Path) -> object | None:
        """The stamp of a model's folder; None where its manifest cannot be read."""
        try:
            if is_diffusers(directory):
                return stamps_of(directory)
            manifest = _stamp(directory / MANIFEST_FILE)
        except (OSError, ContractError):
            return None
        own = manifest, _stamp_if_present(signature_of(directory / MANIFEST_FILE))
        if directory not in self._named or self._named[directory][0] != own:
            self._named[directory] = own, _named_files(directory)
        return *own, *(_stamp_if_present(directory / file) for file in self._named[directory][1])


def _named_files(directory: Path) -> Sequence[str]:
    try:
        return [named.file for named in files_of(read_manifest(directory))]
    except ContractError:
        return ()


def _stamp(path: Path) -> object:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _stamp_if_present(path: Path) -> object | None:
    try:
        return _stamp(path)
    except OSError:
        return None


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
