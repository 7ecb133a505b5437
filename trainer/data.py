"""Image data sets as uint8 tensors in memory; one normalisation to [-1, 1]; no model.

A set of 60,000 pictures of 28x28 is 47 MB: held as uint8 it is indexed per batch at no cost, where an item
loader with per-image transforms would cap the small models.
"""

import gzip
import hashlib
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from trainer.vision import datasets

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_FOLDER = Path("data")

ADVICE = "fetch the files again, or name another folder with --data-dir"

CLASS_NAMES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

#: SHA-256 of the four published files, unpacked: a repacked .gz has another hash, its content has not.
PUBLISHED = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class DataError(Exception):
    """The data set is missing or damaged; the message says what to do."""


@dataclass(frozen=True)
class DataFacts:
    """What a model's card must say of its data: ``image_shape`` is (channel, height, width), ``images`` a count."""

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    licence: str
    source: str
    images: int

    def __str__(self) -> str:
        size = " x ".join(map(str, self.image_shape))
        return f"{self.images:,} images of {self.name} ({size}, {len(self.class_names)} classes)"


@dataclass(frozen=True)
class ImageData:
    """One split of a data set.

    ``images`` is uint8 (count, channel, height, width) in 0..255, ``labels`` int64 (count,); ``provenance`` says in a
    line where they were read from.
    """

    facts: DataFacts
    images: Tensor
    labels: Tensor
    provenance: str


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 (batch, channel, height, width) to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def load_fashion_mnist(data_dir: Path | None = None, *, train: bool = True) -> ImageData:
    """Read Fashion-MNIST from ``data_dir``, from Debian's package, or from a download, in that order.

    A folder holds the four idx files, packed (.gz) or not. Raises DataError when none can be read.
    """
    folder = _find_folder(data_dir)
    if folder is None:
        folder = _download()
    with tempfile.TemporaryDirectory(prefix="genserve-data-") as scratch:
        published = _unpack(folder, Path(scratch) / "FashionMNIST" / "raw")
        split = _read(Path(scratch), folder, train)
    images, labels = split.data.unsqueeze(1), split.targets
    _check(images, labels, folder)
    kind = "the published files" if published else "not the published files: a subset or another edition"
    facts = DataFacts(
        name="fashion-mnist",
        image_shape=(1, 28, 28),
        class_names=CLASS_NAMES,
        licence="MIT, (c) 2017 Zalando SE",
        source="https://github.com/zalandoresearch/fashion-mnist",
        images=len(images),
    )
    provenance = f"{len(images):,} {'training' if train else 'test'} images from {folder} ({kind})"
    return ImageData(facts, images, labels, provenance)


def _find_folder(data_dir: Path | None) -> Path | None:
    if data_dir is not None:
        candidates = (data_dir, data_dir / "FashionMNIST" / "raw")
    else:
        candidates = (DEBIAN_FOLDER, DOWNLOAD_FOLDER / "FashionMNIST" / "raw")
    for folder in candidates:
        if all(_packed_or_not(folder, name) for name in PUBLISHED):
            return folder
    if data_dir is not None:
        raise DataError(f"no Fashion-MNIST in {data_dir}: wanted {', '.join(PUBLISHED)}, each plain or .gz")
    return None


def _packed_or_not(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _download() -> Path:
    try:
        datasets.FashionMNIST(str(DOWNLOAD_FOLDER), download=True)
    except (RuntimeError, OSError) as failure:
        raise DataError(
            f"Fashion-MNIST is not in {DEBIAN_FOLDER} and could not be downloaded ({failure}). Install "
            "Debian's dataset-fashion-mnist, or give the folder of the four idx files with --data-dir."
        ) from failure
    return DOWNLOAD_FOLDER / "FashionMNIST" / "raw"


def _unpack(folder: Path, target: Path) -> bool:
    """Copy the four files, unpacked, to where torchvision looks; true when all are the published ones."""
    target.mkdir(parents=True)
    published = True
    for name, digest in PUBLISHED.items():
        source = _packed_or_not(folder, name)
        assert source is not None
        try:
            with _open(source) as packed, (target / name).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (OSError, EOFError, zlib.error) as failure:
            raise DataError(f"{source} cannot be unpacked ({failure}): {ADVICE}") from failure
        with (target / name).open("rb") as plain:
            published &= hashlib.file_digest(plain, "sha256").hexdigest() == digest
    return published


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _read(root: Path, folder: Path, train: bool) -> datasets.FashionMNIST:
    try:
        return datasets.FashionMNIST(str(root), train=train, download=False)
    except (RuntimeError, ValueError, KeyError, AssertionError) as failure:
        reason = str(failure) or "an unknown header"
        raise DataError(f"{folder} does not hold readable idx files ({reason}): {ADVICE}") from failure


def _check(images: Tensor, labels: Tensor, folder: Path) -> None:
    if images.dtype != torch.uint8 or images.shape[1:] != (1, 28, 28):
        shape = ", ".join(map(str, images.shape))
        raise DataError(f"{folder}: images are {images.dtype} ({shape}), wanted torch.uint8 (count, 1, 28, 28)")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images and {len(labels)} labels: {ADVICE}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(CLASS_NAMES):
        raise DataError(f"{folder}: labels run from {labels.min()} to {labels.max()}, wanted 0..9")
