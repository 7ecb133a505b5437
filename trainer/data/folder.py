"""A folder of one's own pictures: a sub-folder a class, or all in one folder and no classes.

A tenth of each class is held out as the test split, by the hash of a file's name: the same files in every run.
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
#: What requests call "no class": as the name of a class it could not be told from that.
RESERVED = "none"
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


@dataclass
class Survey:
    """What is left out of a folder, by name relative to it."""

    unreadable: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def remarks(self) -> tuple[Remark, ...]:
        """One for each reason. Files with other endings may lie beside pictures, so --strict accepts them."""
        return (
            Remark("folders left out as unreadable", tuple(self.unreadable)),
            Remark("links to folders, not followed", tuple(self.links)),
            Remark("files left out for their endings", tuple(self.others), refused=False),
        )


@dataclass(frozen=True)
class Listing:
    """The files of a folder by class, in the order of labels; without classes all under one empty name."""

    classes: dict[str, list[Path]]
    remarks: tuple[Remark, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in order; empty without classes."""
        return tuple(name for name in self.classes if name)


def load_folder(folder: Path, *, size: int, channels: int, train: bool = True, strict: bool = False) -> ImageData:
    """Every readable picture under ``folder``, cut to a centred square of ``size`` pixels, grey (1 channel) or RGB (3).

    What cannot be read is left out, smaller pictures are enlarged, and the remarks name both; ``strict`` refuses both,
    and pictures beside the sub-folders. Raises DataError for that, and when nothing is left of a class.
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
            f"{printable(str(folder))}: no picture is held out for tests: a class of ten or more files gives one"
        )
    names = listing.class_names
    facts = DataFacts("folder", (channels, size, size), names, "the owner's", folder.resolve().name, len(labels))
    of = f"{len(names):,} class{'es' * (len(names) != 1)}" if names else "no classes"
    provenance = f"{len(labels):,} {split_name(train)} images of {of} from {printable(str(folder))}"
    return ImageData(facts, pictures.images, labels, provenance, remarks)


def list_folder(folder: Path) -> Listing:
    """The pictures under ``folder`` by class, classes in the order of their names, numbers as numbers.

    Raises DataError when it is not a folder, holds no pictures, or has a name that cannot be that of a class.
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
            Remark("pictures left out, beside the sub-folders, of no class", tuple(path.name for path in beside))
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
    """The class that a sub-folder holds: its name in composed Unicode (NFC), without spaces around it.

    Systems store accents composed or not, and requests are stripped: names that only differ so are one class. Raises
    DataError for a name that requests or files could not have.
    """
    name = unicodedata.normalize("NFC", folder.name).strip()
    shown = f"the sub-folder {printable(folder.name)!r} of {printable(str(folder.parent))}"
    if not name:
        raise DataError(f"{shown} has a name of spaces: rename it, it is the name of a class")
    if name.casefold() == RESERVED:
        raise DataError(f"{shown} has the name that stands for no class in requests: rename it")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise DataError(f"{shown} has control characters, or bytes that are not UTF-8, in its name: rename it")
    return name


def _order(name: str) -> tuple[bool, float, str]:
    """Numbers first and as numbers: the classes 0 to 10 get the labels 0 to 10."""
    is_number = NUMBER.fullmatch(name) is not None
    return not is_number, float(name) if is_number else 0.0, name


def _entries(folder: Path, survey: Survey) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the pictures in ``folder`` that are not hidden."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda it: it.name)
    except NotADirectoryError:
        raise DataError(f"{printable(str(folder))} is not a folder: {_WANTED}") from None
    except OSError as failure:
        raise DataError(f"{printable(str(folder))} is not a folder to read ({failure.strerror}): {_WANTED}") from None
    sub_folders = [Path(entry) for entry in entries if _is_folder(entry)]
    files = [Path(entry) for entry in entries if not _is_folder(entry)]
    survey.others += [path.name for path in files if not _is_picture(path.name)]
    return sub_folders, [path for path in files if _is_picture(path.name)]


_WANTED = "--dataset folder:PATH wants the folder of your pictures"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or into a folder that may not be entered
        return False


def walk(folder: Path, root: Path, survey: Survey) -> list[Path]:
    """All pictures below; links to files are followed, links to folders are not: they may lead in a circle."""

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
    """A remark of each class that several sub-folders make up."""
    for name, folders in origins.items():
        if len(folders) > 1:
            yield Remark(f"sub-folders that are the one class {name}", tuple(map(ascii, folders)), refused=False)


def split(paths: list[Path], train: bool) -> list[Path]:
    """The tenth with the smallest hashes of their names, or the rest: in every class, in the order of ``paths``."""
    by_hash = sorted(paths, key=lambda path: hashlib.sha256(_stored_name(path)).digest())
    held_out = set(by_hash[: len(paths) // HELD_OUT])
    return [path for path in paths if (path in held_out) != train]


def _stored_name(path: Path) -> bytes:
    """The same on systems that store accents composed and on those that store them decomposed."""
    return os.fsencode(unicodedata.normalize("NFC", path.name))


def _require_pictures(folder: Path, listing: Listing) -> None:
    empty = next((name for name, paths in listing.classes.items() if not paths), None)
    if empty is None:
        return
    where = f"the class {empty}" if empty else "it"
    known = f"known endings are {', '.join(EXTENSIONS)}"
    remarks = "".join(f"; {remark}" for remark in listing.remarks)
    raise DataError(f"{printable(str(folder))}: no picture is in {where}; {known}{remarks}")


def _require_every_class(folder: Path, listing: Listing, labels: torch.Tensor, remarks: Iterable[Remark]) -> None:
    counts = torch.bincount(labels, minlength=len(listing.classes)).tolist()
    for name, count in zip(listing.classes, counts, strict=True):
        if count == 0:
            told = "".join(f"; {remark}" for remark in remarks)
            raise DataError(f"{printable(str(folder))}: no picture of {name or 'it'} can be read{told}")
