"""A folder of one's own pictures: a sub-folder a class, or all in one folder and no classes.

A tenth of each class is held out as the test split, by the hash of a file's name: the same files in every run.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.data.images import DataError, DataFacts, ImageData, split_name
from trainer.data.pictures import read_pictures, require_all, told
from trainer.vision import datasets

EXTENSIONS = datasets.folder.IMG_EXTENSIONS
HELD_OUT = 10


@dataclass(frozen=True)
class Listing:
    """The files of a folder by class; without classes all under one empty name. ``stray`` belong to no class."""

    classes: dict[str, list[Path]]
    stray: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the sub-folders, in order."""
        return tuple(name for name in self.classes if name)


def load_folder(folder: Path, *, size: int, channels: int, train: bool = True, strict: bool = False) -> ImageData:
    """Every readable picture under ``folder``, cut to a centred square of ``size`` pixels, grey (1 channel) or RGB (3).

    Files that cannot be read are left out and named, smaller ones enlarged and counted; ``strict`` refuses both, and
    pictures beside the sub-folders. Raises DataError for that, and when nothing is left of a class.
    """
    listing = list_folder(folder)
    if strict and listing.stray:
        raise DataError(f"{folder}, --strict{told(listing.stray, 'beside the sub-folders, of no class')}")
    chosen = [(path, label) for label, paths in enumerate(listing.classes.values()) for path in _split(paths, train)]
    pictures = read_pictures([path for path, _ in chosen], size, channels)
    require_all(pictures, folder, strict)
    labels = torch.tensor([chosen[index][1] for index in pictures.kept], dtype=torch.int64)
    if train:
        _require_every_class(folder, listing, labels)
    elif not len(labels):
        raise DataError(f"{folder}: no picture is held out for tests: a class of ten or more files gives one")
    remarks = told(pictures.broken) + told(pictures.enlarged, "smaller and enlarged")
    remarks += told(listing.stray, "left out, beside the sub-folders")
    names = listing.class_names
    facts = DataFacts("folder", (channels, size, size), names, "the owner's", folder.resolve().name, len(labels))
    provenance = f"{len(labels):,} {split_name(train)} images of {len(names)} classes from {folder}{remarks}"
    return ImageData(facts, pictures.images, labels, provenance)


def list_folder(folder: Path) -> Listing:
    """The pictures under ``folder`` by the names of its sub-folders. Raises DataError when it is none or has none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --dataset folder:PATH wants the folder of your pictures")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    beside = [path for path in entries if _is_picture(path)]
    sub_folders = [path for path in entries if path.is_dir()]
    classes = {path.name: _walk(path) for path in sub_folders} or {"": beside}
    stray = tuple(path.name for path in beside) if sub_folders else ()
    empty = next((name for name, paths in classes.items() if not paths), None)
    if empty is not None:
        where = f"the class {empty}" if empty else "it"
        raise DataError(f"{folder}: no picture is in {where}; known endings are {', '.join(EXTENSIONS)}")
    return Listing(classes, stray)


def _walk(folder: Path) -> list[Path]:
    """All pictures below; links to files are followed, links to folders are not: they may lead in a circle."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if _is_picture(path))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.is_dir()


def _split(paths: list[Path], train: bool) -> list[Path]:
    """The tenth with the smallest hashes of their names, or the rest: in every class, in the order of ``paths``."""
    by_hash = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())
    held_out = set(by_hash[: len(paths) // HELD_OUT])
    return [path for path in paths if (path in held_out) != train]


def _require_every_class(folder: Path, listing: Listing, labels: torch.Tensor) -> None:
    counts = torch.bincount(labels, minlength=len(listing.classes)).tolist()
    for name, count in zip(listing.classes, counts, strict=True):
        if count == 0:
            raise DataError(f"{folder}: no picture of {name or 'it'} can be read")
