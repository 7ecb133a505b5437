"""MNIST and Fashion-MNIST, which share a format: four idx files, plain or compressed (.gz)."""

import gzip
import hashlib
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from trainer.data.images import DOWNLOAD_FOLDER, FETCH_AGAIN, DataError, DataFacts, ImageData, split_name
from trainer.vision import datasets

#: Largest decompressed file, twenty times the published one: a megabyte of .gz can contain a gigabyte of zeros.
MOST_BYTES = 1 << 30
COPIED_BYTES = 1 << 20

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

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


@dataclass(frozen=True)
class Edition:
    """One data set in this format.

    ``reader`` is the name of torchvision's class and of its folder. ``published`` has the SHA-256 of the four files,
    decompressed, because that of a .gz depends on the compression. ``package`` is a Debian package and its folder.
    """

    name: str
    title: str
    reader: str
    class_names: tuple[str, ...]
    licence: str
    source: str
    published: dict[str, str]
    package: tuple[str, Path] | None = None


FASHION = Edition(
    name="fashion-mnist",
    title="Fashion-MNIST",
    reader="FashionMNIST",
    class_names=CLASS_NAMES,
    licence="MIT, (c) 2017 Zalando SE",
    source="https://github.com/zalandoresearch/fashion-mnist",
    published={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    package=("dataset-fashion-mnist", DEBIAN_FOLDER),
)

DIGITS = Edition(
    name="mnist",
    title="MNIST",
    reader="MNIST",
    class_names=tuple("0123456789"),
    licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    source="http://yann.lecun.com/exdb/mnist",
    published={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)

FILES = tuple(FASHION.published)


def load_fashion_mnist(data_dir: Path | None = None, *, train: bool = True) -> ImageData:
    """Read Fashion-MNIST from ``data_dir``; by default from Debian's package, ``./data`` or a download, in that order.

    Raises DataError when it cannot be read.
    """
    return _load(FASHION, data_dir, train)


def load_mnist(data_dir: Path | None = None, *, train: bool = True) -> ImageData:
    """Read MNIST from ``data_dir``; by default from ``./data`` or a download. Raises DataError when that fails."""
    return _load(DIGITS, data_dir, train)


def _load(edition: Edition, data_dir: Path | None, train: bool) -> ImageData:
    folder = _find_folder(edition, data_dir)
    if folder is None:
        folder = _download(edition)
    with tempfile.TemporaryDirectory(prefix="genserve-data-") as scratch:
        published = _unpack(edition, folder, Path(scratch) / edition.reader / "raw")
        split = _read(edition, Path(scratch), folder, train)
    images, labels = split.data.unsqueeze(1), split.targets
    _check(images, labels, folder)
    kind = "the published files" if published else "not the published files, but a subset or another edition"
    facts = DataFacts(edition.name, (1, 28, 28), edition.class_names, edition.licence, edition.source, len(images))
    provenance = f"{len(images):,} {split_name(train)} images from {folder} ({kind})"
    return ImageData(facts, images, labels, provenance)


def _find_folder(edition: Edition, data_dir: Path | None) -> Path | None:
    if data_dir is not None:
        candidates = [data_dir, data_dir / edition.reader / "raw"]
    else:
        candidates = [DOWNLOAD_FOLDER / edition.reader / "raw"]
        if edition.package is not None:
            candidates.insert(0, edition.package[1])
    for folder in candidates:
        if all(_packed_or_not(folder, name) for name in FILES):
            return folder
    if data_dir is not None:
        raise DataError(f"no {edition.title} in {data_dir}: needed are {', '.join(FILES)}, each plain or .gz")
    return None


def _packed_or_not(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _download(edition: Edition) -> Path:
    try:
        getattr(datasets, edition.reader)(str(DOWNLOAD_FOLDER), download=True)
    except (RuntimeError, OSError) as failure:
        install = f"Install Debian's {edition.package[0]}, or name" if edition.package else "Name"
        raise DataError(
            f"{edition.title} was not found and could not be downloaded ({failure}). "
            f"{install} the folder of the four idx files with --data-dir"
        ) from failure
    return DOWNLOAD_FOLDER / edition.reader / "raw"


def _unpack(edition: Edition, folder: Path, target: Path) -> bool:
    """Decompress the four files to the folder that torchvision reads; true when all are the published ones."""
    target.mkdir(parents=True)
    published = True
    for name, digest in edition.published.items():
        source = _packed_or_not(folder, name)
        assert source is not None
        try:
            with _open(source) as packed, (target / name).open("wb") as plain:
                while content := packed.read(COPIED_BYTES):
                    if plain.tell() + len(content) > MOST_BYTES:
                        raise DataError(f"{source} contains more than {MOST_BYTES:,} bytes: {FETCH_AGAIN}")
                    plain.write(content)
        except (OSError, EOFError, zlib.error) as failure:
            raise DataError(f"{source} cannot be decompressed ({failure}): {FETCH_AGAIN}") from failure
        with (target / name).open("rb") as plain:
            published &= hashlib.file_digest(plain, "sha256").hexdigest() == digest
    return published


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _read(edition: Edition, root: Path, folder: Path, train: bool) -> Any:  # noqa: ANN401  (torchvision has no types)
    try:
        return getattr(datasets, edition.reader)(str(root), train=train, download=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as failure:
        reason = str(failure) or "an unknown header"
        raise DataError(f"{folder} contains no readable idx files ({reason}): {FETCH_AGAIN}") from failure


def _check(images: Tensor, labels: Tensor, folder: Path) -> None:
    if images.dtype != torch.uint8 or images.shape[1:] != (1, 28, 28):
        shape = ", ".join(map(str, images.shape))
        raise DataError(f"{folder}: images are {images.dtype} ({shape}), expected torch.uint8 (count, 1, 28, 28)")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images and {len(labels)} labels: {FETCH_AGAIN}")
    if not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
        raise DataError(f"{folder}: labels are {labels.min()} to {labels.max()}, expected 0..9")
