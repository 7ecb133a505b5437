"""Decoding of many image files to one uint8 tensor, with remarks on files that are missing in it."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from trainer.data.decode import LONG_RATIO, read_picture, reason
from trainer.data.images import Remark

#: Pillow decodes without the GIL; more threads would only wait for the disk.
THREADS = 8


@dataclass(frozen=True)
class Pictures:
    """The readable images, uint8 (count, channel, size, size); ``kept`` are their indices in the list of files.

    ``remarks`` report files that are unreadable, enlarged, or that lose a large part to the centred square.
    """

    images: Tensor
    kept: tuple[int, ...]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class _Read:
    broken: str = ""
    enlarged: bool = False
    is_long: bool = False


def read_pictures(paths: Sequence[Path], size: int, channels: int, root: Path) -> Pictures:
    """Decode ``paths`` in parallel, keeping their order; remarks name files relative to ``root``."""
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    read = _read_all(images, paths)
    kept = tuple(index for index, each in enumerate(read) if not each.broken)
    names = [str(path.relative_to(root)) for path in paths]
    pairs = list(zip(names, read, strict=True))
    remarks = (
        Remark("unreadable files, left out", tuple(f"{name} ({each.broken})" for name, each in pairs if each.broken)),
        Remark(f"images smaller than {size} pixels, enlarged", tuple(name for name, each in pairs if each.enlarged)),
        Remark(
            f"images that lose more than a third to the centred square: one side is above {LONG_RATIO} times the other",
            tuple(name for name, each in pairs if each.is_long),
            refused=False,
        ),
    )
    images = images if len(kept) == len(paths) else images[list(kept)]
    return Pictures(images, kept, tuple(remark for remark in remarks if remark.names))


def _read_all(images: Tensor, paths: Sequence[Path]) -> list[_Read]:
    pool = ThreadPoolExecutor(THREADS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata, which is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            read = pool.map(partial(_read_into, images), range(len(paths)), paths)
            return list(tqdm(read, "reading", len(paths), unit="img", leave=False))
        finally:
            # Ctrl-C must not wait for the remaining files.
            pool.shutdown(wait=True, cancel_futures=True)


def _read_into(images: Tensor, index: int, path: Path) -> _Read:
    """Write image ``index`` to ``images``, or return why it is unreadable."""
    _, channels, size, _ = images.shape
    try:
        picture = read_picture(path, size, channels)
    except Exception as failure:  # decoders raise many types of errors for damaged files
        return _Read(broken=reason(failure))
    images[index] = picture.pixels
    return _Read(enlarged=min(picture.width, picture.height) < size, is_long=picture.is_long)
