"""The folders of models: which there are, and why one cannot be served. Loads no torch: the supervisor uses it."""

import os
from pathlib import Path

from service.contract.manifest import MANIFEST_FILE, is_model_name


class Unusable(Exception):
    """A model cannot be served; ``str()`` is one line with the file or folder and the reason."""


def model_directories(weights: Path) -> dict[str, Path]:
    """The folders in ``weights`` that have a manifest, by name. Raises OSError when ``weights`` cannot be listed.

    An unreadable manifest counts, so that its model is reported as rejected instead of missing.
    """
    with os.scandir(weights) as entries:
        return {entry.name: Path(entry.path) for entry in sorted(entries, key=_name) if _has_manifest(entry)}


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _has_manifest(entry: os.DirEntry[str]) -> bool:
    try:
        Path(entry.path, MANIFEST_FILE).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # no permission; "lost+found" on many disks is such a folder and not a model
        return is_model_name(entry.name)
    return True
