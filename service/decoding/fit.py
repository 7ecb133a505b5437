"""Decodes a picture file to pixels of a given size, in a decoder process. Needs Pillow only."""

import io
from typing import NamedTuple

from PIL import Image, ImageChops, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from service.decoding.strip import Unreadable, strip

# Importing a plugin registers its format with Image.open; importing all plugins takes longer than decoding.
assert JpegImagePlugin
assert PngImagePlugin
assert WebPImagePlugin

# Pillow would warn at its own limit and raise at twice that; `decode` checks the limit of the settings instead.
Image.MAX_IMAGE_PIXELS = None

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class TooManyPixels(Exception):
    """The file's header has more pixels than the limit."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(f"{width} x {height} pixels")
        self.size = width, height


class Decoded(NamedTuple):
    """``pixels`` are uint8 (height, width, channel); ``alpha`` is uint8 (height, width), or empty if all is opaque.

    ``size`` is the file's width and height after its rotation. ``coloured``: not all pixels were grey.
    """

    pixels: bytes
    alpha: bytes
    size: tuple[int, int]
    coloured: bool


def decode(data: bytes, channels: int, height: int, width: int, max_pixels: int) -> Decoded:
    """The picture in ``data``, rotated upright, cropped to its centre and resized, in 1 or 3 ``channels``.

    Transparent parts are composited on white. Raises TooManyPixels, before any decoding, and Unreadable.
    """
    found = strip(data)
    if found.width * found.height > max_pixels:
        raise TooManyPixels(found.width, found.height)
    try:
        with Image.open(io.BytesIO(found.file), formats=[found.kind]) as image:
            if image.size != (found.width, found.height):
                raise Unreadable("its headers contradict each other")
            image.load()
            turn = _TURNS.get(found.orientation)
            upright = image if turn is None else image.transpose(turn)
    except Unreadable:
        raise
    except Exception as failure:  # Pillow raises many kinds of errors for broken files
        raise Unreadable(str(failure)) from failure
    colour, alpha = _on_white(_resize(_eight_bits(upright), width, height))
    coloured = colour.mode == "RGB" and _has_colours(colour)
    pixels = colour.convert("L" if channels == 1 else "RGB").tobytes()
    return Decoded(pixels, b"" if alpha is None else alpha.tobytes(), upright.size, coloured)


def _eight_bits(image: Image.Image) -> Image.Image:
    """As L, RGB or RGBA."""
    if image.mode.startswith("I;16"):  # Pillow would clip instead of scaling: take the upper byte, the second
        return Image.frombytes("L", image.size, image.tobytes()[1::2])
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def _on_white(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """L or RGB on white, and the alpha channel (L), or None if all is opaque."""
    if image.mode != "RGBA":
        return image, None
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB"), None
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB"), alpha


def _has_colours(image: Image.Image) -> bool:
    """Whether an RGB picture is not grey: many files store grey as three equal channels."""
    red, green, blue = image.split()
    return any(ImageChops.difference(red, other).getbbox() is not None for other in (green, blue))
