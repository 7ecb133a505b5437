"""CIFAR-10 in its authors' Python format: pickled batches of 32x32 RGB images.

Unpickling runs code, so torchvision reads a file only after the MD5 of all files was checked. MD5 is weak against
collisions, but no second preimage of a published file can be made.
"""

from pathlib import Path

import torch

from trainer.data.images import DOWNLOAD_FOLDER, FETCH_AGAIN, DataError, DataFacts, ImageData, split_name
from trainer.vision import datasets

SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def load_cifar10(data_dir: Path | None = None, *, train: bool = True) -> ImageData:
    """Read CIFAR-10 from ``data_dir``, the folder cifar-10-batches-py or its parent, or download it to ``./data``.

    Raises DataError when it cannot be read or a file is not the published one.
    """
    root = _root(data_dir)
    if data_dir is None and not (root / datasets.CIFAR10.base_folder).is_dir():
        _download(root)
    _require_published(root / datasets.CIFAR10.base_folder)
    split = datasets.CIFAR10(str(root), train=train, download=False)
    images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    labels = torch.tensor(split.targets, dtype=torch.int64)
    facts = DataFacts("cifar10", (3, 32, 32), tuple(split.classes), "none stated", SOURCE, len(images))
    provenance = f"{len(images):,} {split_name(train)} images from {root / split.base_folder} (the published files)"
    return ImageData(facts, images, labels, provenance)


def _root(data_dir: Path | None) -> Path:
    if data_dir is None:
        return DOWNLOAD_FOLDER
    return data_dir.parent if data_dir.name == datasets.CIFAR10.base_folder else data_dir


def _download(root: Path) -> None:
    try:
        datasets.CIFAR10(str(root), download=True)
    except (RuntimeError, OSError) as failure:
        raise DataError(
            f"CIFAR-10 could not be downloaded ({failure}). Get {datasets.CIFAR10.filename} from {SOURCE}, unpack it, "
            "and name that folder with --data-dir"
        ) from failure


def _require_published(folder: Path) -> None:
    reader = datasets.CIFAR10
    meta = (reader.meta["filename"], reader.meta["md5"])
    for name, md5 in (*reader.train_list, *reader.test_list, meta):
        if not (folder / name).is_file():
            raise DataError(f"no CIFAR-10 in {folder}: {name} is missing")
        if not datasets.utils.check_integrity(str(folder / name), md5):
            raise DataError(f"{folder / name} is not the published file and is not read: {FETCH_AGAIN}")
