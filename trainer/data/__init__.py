"""Image data sets by name: one module per source, one normalisation to [-1, 1]."""

from pathlib import Path

from trainer.config import DatasetName
from trainer.data.captioned_folder import load_captioned_folder
from trainer.data.celeba import load_celeba
from trainer.data.cifar10 import load_cifar10
from trainer.data.emoji import load_emoji
from trainer.data.folder import load_folder
from trainer.data.images import DataError, DataFacts, ImageData, Remark, choose, printable, to_unit_range
from trainer.data.mnist import load_fashion_mnist, load_mnist


def load(
    dataset: DatasetName,
    data_dir: Path | None = None,
    *,
    train: bool = True,
    image_size: int,
    channels: int,
    strict: bool = False,
    captioned: bool = False,
) -> ImageData:
    """The training or test split of ``dataset``.

    ``data_dir`` contains its files and is required for "folder". ``image_size`` and ``channels`` define the shape of a
    folder's images; published sets have a fixed shape. ``strict`` rejects a data set with unreadable or enlarged files
    instead of leaving them out. ``captioned`` reads a folder's captions instead of its classes. Raises DataError.
    """
    if dataset == "folder":
        if data_dir is None:
            raise DataError("a run on your own images needs their folder: --data-dir PATH")
        load_own = load_captioned_folder if captioned else load_folder
        return load_own(data_dir, size=image_size, channels=channels, train=train, strict=strict)
    if dataset == "celeba":
        return load_celeba(data_dir, train=train, strict=strict)
    published = {"fashion-mnist": load_fashion_mnist, "mnist": load_mnist, "cifar10": load_cifar10, "emoji": load_emoji}
    return published[dataset](data_dir, train=train)


__all__ = [
    "DataError",
    "DataFacts",
    "ImageData",
    "Remark",
    "choose",
    "load",
    "load_fashion_mnist",
    "printable",
    "to_unit_range",
]
