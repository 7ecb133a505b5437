"""Arrays of pixels to files and to larger arrays; no model and no HTTP.

Everywhere a picture is uint8 (height, width, channel) and channel is 1 (grey) or 3 (red, green, blue).
"""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = NDArray[np.uint8]

_PADDING = 2
_BACKGROUND = 128  # neither of the two colours that generated pictures have as their own background


def encode_png(image: Pixels, text: Mapping[str, str] | None = None) -> bytes:
    """A PNG of one picture (height, width, channel), with `text` in its metadata.

    Raises:
        ValueError: the picture has neither 1 nor 3 channels.
    """
    metadata = PngInfo()
    for key, value in (text or {}).items():
        metadata.add_text(key, value)
    file = io.BytesIO()
    # Small pictures hardly shrink further at higher levels, and encoding is on every request's way.
    _to_pillow(image).save(file, format="PNG", compress_level=1, pnginfo=metadata)
    return file.getvalue()


def encode_gif(frames: Pixels, fps: float, loop: bool = True) -> bytes:
    """An animation of (frame, height, width, channel), played once or for ever.

    The format counts in hundredths of a second, and browsers slow anything under two of them down to ten:
    above 50 frames a second the animation plays at 50.

    Raises:
        ValueError: the frames have neither 1 nor 3 channels.
    """
    first, *rest = (_to_pillow(frame) for frame in frames)
    options: dict[str, Any] = {"loop": 0} if loop else {}  # without the key the file does not repeat at all
    file = io.BytesIO()
    milliseconds = 10 * max(2, round(100 / fps))
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=milliseconds, **options)
    return file.getvalue()


def encode_npy(images: Pixels) -> bytes:
    """The array as a NumPy .npy file, which holds no pickled objects."""
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return file.getvalue()


def grid(images: Pixels) -> Pixels:
    """Pictures (n, height, width, channel), row by row in a near-square grid; a single one stays as it is."""
    return _tile(images, columns=math.ceil(math.sqrt(len(images))))


def strip(images: Pixels) -> Pixels:
    """Pictures (n, height, width, channel) side by side in one row; a single one stays as it is."""
    return _tile(images, columns=len(images))


def enlarge(image: Pixels, scale: int) -> Pixels:
    """A picture (height, width, channel) with every pixel a square of `scale` >= 1 pixels."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _tile(images: Pixels, columns: int) -> Pixels:
    count, height, width, channels = images.shape
    if count == 1:
        return images.squeeze(axis=0)
    rows = math.ceil(count / columns)
    row_stride, column_stride = height + _PADDING, width + _PADDING
    shape = (rows * row_stride + _PADDING, columns * column_stride + _PADDING, channels)
    canvas = np.full(shape, _BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top = _PADDING + index // columns * row_stride
        left = _PADDING + index % columns * column_stride
        canvas[top : top + height, left : left + width] = image
    return canvas


def _to_pillow(image: Pixels) -> Image.Image:
    channels = image.shape[2]
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    return Image.fromarray(image[:, :, 0] if channels == 1 else image)
