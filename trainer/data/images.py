"""The common form of all data sets: uint8 tensors in memory, and facts for the model's card.

60,000 images of 28x28 are 47 MB: indexing them is free, while a loader with per-image transforms would slow down the
small models.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from trainer.data.captions import Captions

#: Where data sets are downloaded to and looked for.
DOWNLOAD_FOLDER = Path("data")

#: Number of files that a remark names.
NAMED = 5

FETCH_AGAIN = "download the files again, or name another folder with --data-dir"


class DataError(Exception):
    """The data set is missing or damaged; the message says what to do."""


@dataclass(frozen=True)
class Remark:
    """Files that were left out or changed: ``what`` happened to them, and whether --strict rejects that."""

    what: str
    names: tuple[str, ...]
    refused: bool = True

    def __str__(self) -> str:
        more = f" and {len(self.names) - NAMED:,} more" if len(self.names) > NAMED else ""
        return f"{self.what} ({len(self.names):,}): {', '.join(map(printable, self.names[:NAMED]))}{more}"


def require_none(remarks: Iterable[Remark], folder: Path) -> None:
    """Raise DataError when --strict rejects one of ``remarks``."""
    refused = [str(remark) for remark in remarks if remark.refused]
    if refused:
        raise DataError(f"{printable(str(folder))}, --strict: {'; '.join(refused)}")


def printable(name: str) -> str:
    """A file name for a terminal, with bytes that are not UTF-8 and control characters replaced."""
    return "".join(c if c.isprintable() or c == "\u200d" else "\N{REPLACEMENT CHARACTER}" for c in name)


@dataclass(frozen=True)
class DataFacts:
    """The facts of a data set for the card: ``image_shape`` is (channel, height, width), ``images`` the count."""

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    licence: str
    source: str
    images: int

    def difference(self, other: "DataFacts") -> str:
        """The first difference as text; empty when there is none. A folder's name is ignored: it may be moved."""
        same = {"source"} if self.name == "folder" else set()
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name not in same and mine != theirs:
                return f"{field.name.replace('_', ' ')}: {mine} then, {theirs} now"
        return ""

    def __str__(self) -> str:
        size = " x ".join(map(str, self.image_shape))
        return f"{self.images:,} images of {self.name} ({size}, {len(self.class_names)} classes)"


@dataclass(frozen=True)
class ImageData:
    """One split of a data set.

    ``images`` is uint8 (count, channel, height, width) in 0..255, ``labels`` int64 (count,); ``provenance`` is a line
    about their origin, ``remarks`` report missing or changed files. With ``captions`` the label of an image is its row
    among them.
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
        """The SHA-256, in hexadecimal, of pixels, their order, labels, class names and captions.

        Renaming or moving files does not change it as long as the order of the images stays the same.
        """
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.facts.class_names)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        if self.captions is not None:
            digest.update(repr((self.captions.names, self.captions.keywords)).encode())
        return digest.hexdigest()

    def without_classes(self) -> "ImageData":
        """The same images with no classes, no captions and label 0."""
        facts = replace(self.facts, class_names=())
        return replace(self, facts=facts, labels=torch.zeros_like(self.labels), captions=None)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 (batch, channel, height, width) to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def choose(count: int, of: int) -> Tensor:
    """``count`` of ``of`` indices in a fixed random order, (count,) int64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(of, generator=generator)[:count]


def split_name(train: bool) -> str:
    """The name of a split in messages."""
    return "training" if train else "test"
