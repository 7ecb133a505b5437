"""Picture files to uint8 tensors: any size and mode that Pillow reads, cut to a centred square."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from trainer.data.images import DataError

#: Pillow decodes outside the interpreter's lock; more threads than this wait for the disk.
THREADS = 8
NAMED = 5


@dataclass(frozen=True)
class Pictures:
    """What could be read: ``images`` uint8 (count, channel, size, size), ``kept`` their places in the list of files.

    ``broken`` tells each file that could not be read and why, ``enlarged`` those smaller than asked for.
    """

    images: Tensor
    kept: tuple[int, ...]
    broken: tuple[str, ...]
    enlarged: tuple[str, ...]


def read_pictures(paths: Sequence[Path], size: int, channels: int) -> Pictures:
    """Decode ``paths`` in parallel, in their order."""
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    read = partial(_read_into, images, size, channels)
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # of metadata that nobody asked for
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = list(tqdm(pool.map(read, range(len(paths)), paths), "reading", len(paths), unit="img", leave=False))
    kept = tuple(index for index, (reason, _) in enumerate(results) if reason is None)
    return Pictures(
        images if len(kept) == len(paths) else images[list(kept)],
        kept,
        tuple(f"{path.name} ({reason})" for path, (reason, _) in zip(paths, results, strict=True) if reason),
        tuple(path.name for path, (_, enlarged) in zip(paths, results, strict=True) if enlarged),
    )


def require_all(pictures: Pictures, folder: Path, strict: bool) -> None:
    """Raise DataError when ``strict`` and a file could not be read or is smaller than asked for."""
    if strict and pictures.broken:
        raise DataError(f"{folder}, --strict{told(pictures.broken)}")
    if strict and pictures.enlarged:
        raise DataError(f"{folder}, --strict{told(pictures.enlarged, 'smaller than --image-size')}")


def told(names: Sequence[str], what: str = "left out as unreadable") -> str:
    """The count and the first few of ``names``, to be added to a sentence; nothing when there are none."""
    if not names:
        return ""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"; {len(names):,} {what}: {', '.join(names[:NAMED])}{more}"


def _read_into(images: Tensor, size: int, channels: int, index: int, path: Path) -> tuple[str | None, bool]:
    """Write picture ``index``; returns why it could not be, and whether it had to be enlarged."""
    try:
        with Image.open(path) as opened:
            enlarged = min(opened.size) < size
            images[index] = _square(opened, size, channels)
    except Exception as failure:  # a decoder fails with whatever it meets in a damaged file
        return _reason(failure), False
    return None, enlarged


def _reason(failure: Exception) -> str:
    if isinstance(failure, UnidentifiedImageError):
        return "no picture"
    if isinstance(failure, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too many pixels"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return str(failure) or type(failure).__name__


def _square(opened: Image.Image, size: int, channels: int) -> Tensor:
    """uint8 (channel, size, size): upright, of the first frame, see-through parts on white."""
    opened.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at the least scale that is still twice as large
    upright = ImageOps.exif_transpose(opened)
    flat = _opaque(_eight_bits(upright)).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    pixels = np.array(square, dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey levels off at 255 where it should scale them."""
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    if not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image).astype(np.float32) / 257.0
    return Image.fromarray(levels.round().astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    see_through = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", see_through.size, "white"), see_through)
