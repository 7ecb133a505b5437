"""A folder of one's own pictures: a sub-folder a class, or all in one folder and no classes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from trainer.data import DataError, DataFacts, ImageData
from trainer.vision import datasets

EXTENSIONS = datasets.folder.IMG_EXTENSIONS


def load_image_folder(folder: Path, size: int, channels: int) -> ImageData:
    """Every readable picture under ``folder``, cut to a centred square of ``size`` pixels, grey (1 channel) or RGB (3).

    Files that are no readable pictures are left out and named. Raises DataError when nothing is left of a class.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder of your pictures with --data-dir")
    class_names, samples = _samples(folder)
    kept, broken = _read(samples, size, channels)
    images = torch.stack([picture for picture, _ in kept]) if kept else torch.empty(0)
    labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
    counts = torch.bincount(labels, minlength=max(1, len(class_names)))
    if int(counts.min()) == 0:
        empty = class_names[int(counts.argmin())] if class_names else "the folder"
        raise DataError(f"{folder}: no picture of {empty} can be read; known endings are {', '.join(EXTENSIONS)}")
    left_out = f"; {len(broken)} left out as unreadable: {', '.join(broken[:5])}" if broken else ""
    facts = DataFacts("folder", (channels, size, size), class_names, "the owner's", str(folder.name), len(images))
    return ImageData(
        facts, images, labels, f"{len(images):,} pictures of {len(class_names)} classes in {folder}{left_out}"
    )


def _samples(folder: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """The class names and each file's path and class."""
    if not any(path.is_dir() for path in folder.iterdir()):
        files = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
        return (), [(path, 0) for path in files]
    try:
        found = datasets.ImageFolder(str(folder))
    except FileNotFoundError as failure:
        raise DataError(f"{folder}: {failure}") from failure
    return tuple(found.classes), found.samples


def _read(samples: list[tuple[str, int]], size: int, channels: int) -> tuple[list[tuple[Tensor, int]], list[str]]:
    kept, broken = [], []
    for path, label in tqdm(samples, desc="reading", unit="img", leave=False):
        try:
            kept.append((_picture(path, size, channels), label))
        except (OSError, ValueError, Image.DecompressionBombError):
            broken.append(Path(path).name)
    return kept, broken


def _picture(path: str, size: int, channels: int) -> Tensor:
    """uint8 (channel, size, size)."""
    with Image.open(path) as opened:
        square = ImageOps.fit(opened.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(square, dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
