"""One picture file to a uint8 tensor: any size and mode that Pillow reads, cut to a centred square.

Only pixels and the orientation matter here: damaged metadata never decides whether a picture can be read.
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
#: Never EPS or PDF, which Pillow hands to an external program, whatever the ending of the file's name.
FORMATS = tuple({"AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"} & set(Image.OPEN))

#: Pictures above this many pixels are decoded one at a time: eight at once could take 10 GB of memory.
LARGE_PIXELS = 1 << 24
#: Largest file that is read a second time, into memory, without its metadata.
MOST_BYTES = 1 << 29
#: Above this ratio of the sides, the centred square loses more than a third of the picture.
LONG_RATIO = 1.5

ORIENTATION_TAG = 0x0112
TURNS = {
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
        """Whether the centred square loses more than a third of the picture."""
        return max(self.width, self.height) > LONG_RATIO * min(self.width, self.height)


def read_picture(path: Path, size: int, channels: int) -> Picture:
    """The picture in ``path``: upright, its first frame, transparent parts on white, grey (1 channel) or RGB (3).

    Raises whatever the decoder meets in a damaged file; ``reason`` puts it in words.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")  # to open a FIFO waits for a writer, maybe forever
    try:
        return _decode(path, size, channels)
    except _BOMBS:
        raise
    except Exception:
        if found.st_size > MOST_BYTES:
            raise
        return _decode(BytesIO(essential(path.read_bytes())), size, channels)


def reason(failure: Exception) -> str:
    """Why a picture could not be read, in a few words."""
    if isinstance(failure, UnidentifiedImageError):
        return "not a picture"
    if isinstance(failure, _BOMBS):
        return "too many pixels"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return str(failure) or type(failure).__name__


def _decode(source: Path | BytesIO, size: int, channels: int) -> Picture:
    with Image.open(source, formats=FORMATS) as opened, _turn_of(opened):
        width, height = opened.size
        return Picture(_square(opened, size, channels), width, height)


def _turn_of(opened: Image.Image) -> AbstractContextManager[object]:
    return _large if opened.width * opened.height > LARGE_PIXELS else nullcontext()


def _square(opened: Image.Image, size: int, channels: int) -> Tensor:
    opened.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at the least scale that is still twice as large
    flat = _opaque(_eight_bits(_upright(opened))).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    pixels = np.array(square, dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says, where that can be read.

    ``ImageOps.exif_transpose`` would also write the other tags anew, and fail on a damaged one.
    """
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION_TAG, 0))
    except Exception:  # any damage of metadata; the pixels are there
        turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey levels off at 255 where it should scale them."""
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
    see_through = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", see_through.size, "white"), see_through)
