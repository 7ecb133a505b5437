"""Decoding of one image file to a uint8 tensor: any size and mode that Pillow reads, cut to a centred square.

Only pixels and orientation matter: damaged metadata does not make an image unreadable.
"""

import stat
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from trainer.data.essential import essential

Image.init()
#: Not EPS or PDF, which Pillow passes to an external program; the file's extension does not matter.
FORMATS = tuple({"AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"} & set(Image.OPEN))

#: Larger images are decoded one at a time: eight at once could take 10 GB of memory.
LARGE_PIXELS = 1 << 24
#: Largest file that is read again into memory to decode it without its metadata.
MOST_BYTES = 1 << 29
#: Above this aspect ratio, the centred square loses more than a third of the image.
LONG_RATIO = 1.5

ORIENTATION_TAG = 0x0112
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_large = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """``pixels`` uint8 (channel, size, size); ``width`` and ``height`` are those of the file."""

    pixels: Tensor
    width: int
    height: int

    @property
    def is_long(self) -> bool:
        """Whether the centred square loses more than a third of the image."""
        return max(self.width, self.height) > LONG_RATIO * min(self.width, self.height)


def read_picture(path: Path, size: int, channels: int) -> Picture:
    """The first frame of ``path``, upright, on a white background, grey (1 channel) or RGB (3).

    Passes on any error of the decoder; ``reason`` describes it.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")  # opening a FIFO would wait for a writer
    try:
        return _decode(path, size, channels)
    except _BOMBS:
        raise
    except Exception:
        if found.st_size > MOST_BYTES:
            raise
        return _decode(BytesIO(essential(path.read_bytes())), size, channels)


def reason(failure: Exception) -> str:
    """Why an image could not be read, in a few words."""
    if isinstance(failure, UnidentifiedImageError):
        return "not an image"
    if isinstance(failure, _BOMBS):
        return "too many pixels"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return str(failure) or type(failure).__name__


def _decode(source: Path | BytesIO, size: int, channels: int) -> Picture:
    with Image.open(source, formats=FORMATS) as opened, _memory_limit(opened):
        width, height = opened.size
        return Picture(_square(opened, size, channels), width, height)


def _memory_limit(opened: Image.Image) -> AbstractContextManager[object]:
    return _large if opened.width * opened.height > LARGE_PIXELS else nullcontext()


def _square(opened: Image.Image, size: int, channels: int) -> Tensor:
    opened.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at the smallest scale of at least twice the size
    flat = _opaque(_eight_bits(_upright(opened))).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    pixels = np.array(square, dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """``image`` turned according to its EXIF orientation, if that can be read.

    ``ImageOps.exif_transpose`` would also rewrite the other tags and fail on a damaged one.
    """
    image.load()
    try:
        transpose = ORIENTATIONS.get(image.getexif().get(ORIENTATION_TAG, 0))
    except Exception:  # damaged metadata: the pixels are still valid
        transpose = None
    return image if transpose is None else image.transpose(transpose)


def _eight_bits(image: Image.Image) -> Image.Image:
    """``image`` with 8-bit levels: Pillow would clip 16-bit grey levels at 255 instead of scaling them."""
    of_sixteen_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if of_sixteen_bits:
        levels = np.asarray(image).astype(np.float32) / 257.0
        return Image.fromarray(levels.round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    return image


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
