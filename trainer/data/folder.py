"""A folder of the user's own images: one sub-folder per class, or all images in one folder without classes.

A tenth of each class is the test split. The hash of the file name selects it, so that it is the same in every run.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trainer.data.images import DataError, DataFacts, ImageData, Remark, printable, require_none, split_name
from trainer.data.pictures import read_pictures

EXTENSIONS = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
HELD_OUT = 10
#: Requests use this name for "no class", so it cannot be the name of a class.
RESERVED = "none"
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


@dataclass
class Survey:
    """Files that are left out, by name relative to the folder."""

    unreadable: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def remarks(self) -> tuple[Remark, ...]:
        """One remark per reason. --strict accepts files with other extensions: folders often contain some."""
        return (
            Remark("unreadable folders, left out", tuple(self.unreadable)),
            Remark("links to folders, not followed", tuple(self.links)),
            Remark("files with other extensions, left out", tuple(self.others), refused=False),
        )


@dataclass(frozen=True)
class Listing:
    """The files of a folder by class, in the order of labels; without classes all are under the empty name."""

    classes: dict[str, list[Path]]
    remarks: tuple[Remark, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of labels; empty without classes."""
        return tuple(name for name in self.classes if name)


def load_folder(folder: Path, *, size: int, channels: int, train: bool = True, strict: bool = False) -> ImageData:
    """Every readable image under ``folder``, cut to a centred square of ``size`` pixels, grey (1 channel) or RGB (3).

    Unreadable files are left out, smaller images are enlarged, and remarks name both; ``strict`` rejects both, and
    images beside the sub-folders. Raises DataError then, and when a class has no readable image.
    """
    listing = list_folder(folder)
    chosen = [(path, label) for label, paths in enumerate(listing.classes.values()) for path in split(paths, train)]
    pictures = read_pictures([path for path, _ in chosen], size, channels, folder)
    remarks = pictures.remarks + listing.remarks
    if strict:
        require_none(remarks, folder)
    labels = torch.tensor([chosen[index][1] for index in pictures.kept], dtype=torch.int64)
    if train:
        _require_every_class(folder, listing, labels, remarks)
    elif not len(labels):
        raise DataError(
            f"{printable(str(folder))}: the test split is empty: it takes a tenth of each class of ten or more files"
        )
    names = listing.class_names
    facts = DataFacts("folder", (channels, size, size), names, "the owner's", folder.resolve().name, len(labels))
    of = f"{len(names):,} class{'es' * (len(names) != 1)}" if names else "no classes"
    provenance = f"{len(labels):,} {split_name(train)} images of {of} from {printable(str(folder))}"
    return ImageData(facts, pictures.images, labels, provenance, remarks)


def list_folder(folder: Path) -> Listing:
    """The image files under ``folder`` by class; class names are sorted, numbers by value.

    Raises DataError when it is not a folder, contains no images, or a sub-folder has an invalid name.
    """
    survey = Survey()
    sub_folders, beside = _entries(folder, survey)
    classes: dict[str, list[Path]] = {}
    origins: dict[str, list[str]] = {}
    for path in sub_folders:
        name = class_name(path)
        classes.setdefault(name, []).extend(walk(path, folder, survey))
        origins.setdefault(name, []).append(path.name)
    remarks = [*survey.remarks(), *_merged(origins)]
    if sub_folders:
        remarks.append(
            Remark("images beside the sub-folders, without a class, left out", tuple(path.name for path in beside))
        )
    else:
        classes[""] = beside
    listing = Listing(
        {name: classes[name] for name in sorted(classes, key=_order)},
        tuple(remark for remark in remarks if remark.names),
    )
    _require_pictures(folder, listing)
    return listing


def class_name(folder: Path) -> str:
    """The class name of a sub-folder: its name in composed Unicode (NFC) without surrounding spaces.

    File systems store accents composed or decomposed, and requests are stripped, so such variants are one class. Raises
    DataError for a name that a request could not contain.
    """
    name = unicodedata.normalize("NFC", folder.name).strip()
    shown = f"the sub-folder {printable(folder.name)!r} of {printable(str(folder.parent))}"
    if not name:
        raise DataError(f"{shown} has a name that consists of spaces: rename it, it is the name of a class")
    if name.casefold() == RESERVED:
        raise DataError(f"{shown} has the name that requests use for no class: rename it")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise DataError(f"{shown} has control characters or bytes that are not UTF-8 in its name: rename it")
    return name


def _order(name: str) -> tuple[bool, float, str]:
    """The sort key of a class name: numbers first, by value, so that the classes 0 to 10 get the labels 0 to 10."""
    is_number = NUMBER.fullmatch(name) is not None
    return not is_number, float(name) if is_number else 0.0, name


def _entries(folder: Path, survey: Survey) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the image files in ``folder`` that are not hidden."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda it: it.name)
    except NotADirectoryError:
        raise DataError(f"{printable(str(folder))} is not a folder: {_EXPECTED}") from None
    except OSError as failure:
        reason = f"is not a readable folder ({failure.strerror})"
        raise DataError(f"{printable(str(folder))} {reason}: {_EXPECTED}") from None
    sub_folders = [Path(entry) for entry in entries if _is_folder(entry)]
    files = [Path(entry) for entry in entries if not _is_folder(entry)]
    survey.others += [path.name for path in files if not _is_picture(path.name)]
    return sub_folders, [path for path in files if _is_picture(path.name)]


_EXPECTED = "--dataset folder:PATH expects the folder of your images"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a cyclic link, or a link into a folder without permission
        return False


def walk(folder: Path, root: Path, survey: Survey) -> list[Path]:
    """All image files below ``folder``. Links to files are followed; links to folders are not: they may be cyclic."""

    def unreadable(failure: OSError) -> None:
        survey.unreadable.append(f"{Path(failure.filename).relative_to(root)} ({failure.strerror})")

    pictures = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(place)
        survey.links += [str((here / name).relative_to(root)) for name in folders if (here / name).is_symlink()]
        for name in files:
            if _is_picture(name) and not name.startswith("."):
                pictures.append(here / name)
            elif not name.startswith("."):
                survey.others.append(str((here / name).relative_to(root)))
    return sorted(pictures)


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS


def _merged(origins: dict[str, list[str]]) -> Iterable[Remark]:
    """A remark for each class that combines several sub-folders."""
    for name, folders in origins.items():
        if len(folders) > 1:
            yield Remark(f"sub-folders combined to the class {name}", tuple(map(ascii, folders)), refused=False)


def split(paths: list[Path], train: bool) -> list[Path]:
    """The test split of a class, the tenth with the smallest name hashes, or the rest; in the order of ``paths``."""
    by_hash = sorted(paths, key=lambda path: hashlib.sha256(_stored_name(path)).digest())
    held_out = set(by_hash[: len(paths) // HELD_OUT])
    return [path for path in paths if (path in held_out) != train]


def _stored_name(path: Path) -> bytes:
    """The file name in NFC: file systems store accents composed or decomposed."""
    return os.fsencode(unicodedata.normalize("NFC", path.name))


def _require_pictures(folder: Path, listing: Listing) -> None:
    empty = next((name for name, paths in listing.classes.items() if not paths), None)
    if empty is None:
        return
    where = f"the class {empty}" if empty else "the folder"
    known = f"known extensions are {', '.join(EXTENSIONS)}"
    remarks = "".join(f"; {remark}" for remark in listing.remarks)
    raise DataError(f"{printable(str(folder))}: {where} contains no image; {known}{remarks}")


def _require_every_class(folder: Path, listing: Listing, labels: torch.Tensor, remarks: Iterable[Remark]) -> None:
    counts = torch.bincount(labels, minlength=len(listing.classes)).tolist()
    for name, count in zip(listing.classes, counts, strict=True):
        if count == 0:
            details = "".join(f"; {remark}" for remark in remarks)
            of = f" of {name}" if name else ""
            raise DataError(f"{printable(str(folder))}: no image{of} can be read{details}")
