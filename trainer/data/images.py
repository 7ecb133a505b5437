"""What every data set becomes: uint8 tensors in memory, and the facts that a model's card must tell.

A set of 60,000 pictures of 28x28 is 47 MB: held as uint8 it is indexed per batch at no cost, where an item
loader with per-image transforms would cap the small models.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from trainer.data.captions import Captions

#: Where downloads go, and where they are looked for.
DOWNLOAD_FOLDER = Path("data")

#: How many files a remark names.
NAMED = 5

FETCH_AGAIN = "fetch the files again, or name another folder with --data-dir"


class DataError(Exception):
    """The data set is missing or damaged; the message says what to do."""


@dataclass(frozen=True)
class Remark:
    """Files that were left out or changed: ``what`` happened to them, and whether --strict refuses that."""

    what: str
    names: tuple[str, ...]
    refused: bool = True

    def __str__(self) -> str:
        more = f" and {len(self.names) - NAMED:,} more" if len(self.names) > NAMED else ""
        return f"{self.what} ({len(self.names):,}): {', '.join(map(printable, self.names[:NAMED]))}{more}"


def require_none(remarks: Iterable[Remark], folder: Path) -> None:
    """Raise DataError when one of ``remarks`` is refused by --strict."""
    refused = [str(remark) for remark in remarks if remark.refused]
    if refused:
        raise DataError(f"{printable(str(folder))}, --strict: {'; '.join(refused)}")


def printable(name: str) -> str:
    """A file's name for a terminal: bytes that are not UTF-8, and control characters, would break the line."""
    return "".join(c if c.isprintable() or c == "\u200d" else "\N{REPLACEMENT CHARACTER}" for c in name)


@dataclass(frozen=True)
class DataFacts:
    """What a model's card must say of its data: ``image_shape`` is (channel, height, width), ``images`` a count."""

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    licence: str
    source: str
    images: int

    def difference(self, other: "DataFacts") -> str:
        """What tells the two apart, in words; empty when nothing does. A folder may have been moved or renamed."""
        same = {"source"} if self.name == "folder" else set()
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in same and mine != theirs:
                return f"{field.name.replace('_', ' ')} {mine} then, {theirs} now"
        return ""

    def __str__(self) -> str:
        size = " x ".join(map(str, self.image_shape))
        return f"{self.images:,} images of {self.name} ({size}, {len(self.class_names)} classes)"


@dataclass(frozen=True)
class ImageData:
    """One split of a data set.

    ``images`` is uint8 (count, channel, height, width) in 0..255, ``labels`` int64 (count,); ``provenance`` says in a
    line where they were read from, ``remarks`` which files are missing or changed. With ``captions`` a picture's label
    is its place among them.
    """

    facts: DataFacts
    images: Tensor
    labels: Tensor
    provenance: str
    remarks: tuple[Remark, ...] = ()
    captions: Captions | None = None

    @property
    def null_label(self) -> int:
        """The label that means "no class", or no caption."""
        return len(self.captions or self.facts.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of all that training sees: pixels, their order, labels, names of classes, captions.

        Files may be renamed or moved as long as the pictures stay in the same order.
        """
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.facts.class_names)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        if self.captions is not None:
            digest.update(repr((self.captions.names, self.captions.keywords)).encode())
        return digest.hexdigest()

    def without_classes(self) -> "ImageData":
        """The same pictures, for what shall not learn their classes or captions."""
        facts = replace(self.facts, class_names=())
        return replace(self, facts=facts, labels=torch.zeros_like(self.labels), captions=None)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 (batch, channel, height, width) to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def choose(count: int, of: int) -> Tensor:
    """A fixed random order of the first ``count`` of ``of`` indices, (count,) int64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(of, generator=generator)[:count]


def split_name(train: bool) -> str:
    """The word for a split in messages."""
    return "training" if train else "test"
