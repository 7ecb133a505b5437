"""Encodes pictures as files, and arranges them in grids; knows neither models nor HTTP.

A picture is uint8 (height, width, channel) with 1 (grey) or 3 channels (red, green, blue).
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.GifImagePlugin import getdata, getheader
from zlib_ng import zlib_ng

from service.decoding.strip import PNG_SIGNATURE, Unreadable, png_chunks

Pixels = NDArray[np.uint8]

#: Pixels around each picture of a grid.
GAP = 2
_BACKGROUND = 128  # generated pictures have black or white backgrounds


#: The keyword is that of other generators, followed by: not compressed, no language (PNG, section 11.3.4.5).
_PARAMETERS = b"parameters\0\0\0\0\0"
_PLAIN_PARAMETERS = b"parameters\0"
MAX_PARAMETERS = 65_536
#: The longest text that is written: longer ones would not be read back.
MAX_TEXT = MAX_PARAMETERS - len(_PARAMETERS)

#: The formats' limits in pixels a side.
MAX_WEBP_SIDE, MAX_JPEG_SIDE = 16_383, 65_500

#: Pixels up to this many bytes are not compressed: the answer fits into one packet anyway.
MOST_STORED = 1024

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def encode_png(image: Pixels, parameters: bytes = b"") -> bytes:
    """A PNG of one picture (height, width, channel), with UTF-8 text for ``png_parameters`` to read back.

    Every request encodes, and for small pictures this takes a quarter of Pillow's time
    (docs/decisions/0004-png-by-hand.md).

    Raises:
        ValueError: the picture has neither 1 nor 3 channels.
    """
    height, width, channels = image.shape
    head = _png_head(height, width, channels)
    lines = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each line begins with its filter: 0, none
    lines[:, 1:] = image.reshape(height, -1)
    # Higher levels hardly compress small pictures further.
    data = _stored(lines.tobytes()) if lines.size <= MOST_STORED else zlib_ng.compress(lines, 1)
    text = _png_chunk(b"iTXt", _PARAMETERS + parameters) if parameters else b""
    return b"".join((head, text, _png_chunk(b"IDAT", data), _PNG_END))


def png_parameters(png: bytes) -> bytes | None:
    """The UTF-8 text of a PNG under the keyword "parameters"; None if it is absent or longer than ``MAX_PARAMETERS``.

    Only uncompressed text is read: iTXt as ``encode_png`` writes it, and tEXt.
    """
    if not png.startswith(PNG_SIGNATURE):
        return None
    with suppress(Unreadable):  # too many chunks
        for kind, data in png_chunks(png):
            if len(data) > MAX_PARAMETERS:
                continue
            if kind == b"iTXt" and data.startswith(_PARAMETERS):
                return data.removeprefix(_PARAMETERS)
            if kind == b"tEXt" and data.startswith(_PLAIN_PARAMETERS):
                return data.removeprefix(_PLAIN_PARAMETERS).decode("latin-1").encode()
    return None


def encode_webp(image: Pixels, quality: int | None = None) -> bytes:
    """A WebP of one picture (height, width, channel): lossless, or at ``quality`` 1 to 100.

    Raises ValueError as ``encode_png``, and for more than ``MAX_WEBP_SIDE`` pixels a side.
    """
    file = io.BytesIO()
    # Effort 1 of 6: higher ones take several times as long and save a few bytes.
    _to_pillow(image).save(file, format="WEBP", lossless=quality is None, quality=quality or 0, method=1, exact=True)
    return file.getvalue()


def encode_jpeg(image: Pixels, quality: int = 90) -> bytes:
    """A JPEG of one picture (height, width, channel) at ``quality`` 1 to 100, without chroma subsampling.

    Raises ValueError as ``encode_png``.
    """
    file = io.BytesIO()
    _to_pillow(image).save(file, format="JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def encode_zip(files: Mapping[str, bytes]) -> bytes:
    """A ZIP archive of ``files`` by name, stored: pictures are compressed already. Equal files give equal bytes."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in files.items():
            target.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), content)
    return archive.getvalue()


def encode_gif(frames: Pixels, fps: float) -> bytes:
    """A GIF of (frame, height, width, channel) that loops.

    The format counts in hundredths of a second, and browsers play delays under two of them as ten: more than 50 frames
    a second are played at 50.

    Raises:
        ValueError: the frames have neither 1 nor 3 channels.
    """
    milliseconds = 10 * max(2, round(100 / fps))
    pictures = [_to_pillow(frame) for frame in frames]
    first = _indexed(pictures[0])
    parts = [*getheader(first, info={"loop": 0})[0], *getdata(first, duration=milliseconds)]
    # Pillow's own writer merges equal frames, so that viewers count too few.
    for before, picture in pairwise(pictures):
        box = ImageChops.difference(before, picture).getbbox() or (0, 0, 1, 1)
        changed = _indexed(picture.crop(box))
        parts += getdata(changed, box[:2], duration=milliseconds, include_color_table=True)
    return b"".join([*parts, b";"])


def encode_npy(array: NDArray[np.generic]) -> bytes:
    """The array as a NumPy .npy file, without pickled objects."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def grid_columns(count: int) -> int:
    """Columns of a near-square grid of ``count`` pictures."""
    return math.ceil(math.sqrt(count))


def tile(images: Sequence[Pixels], columns: int, gap: int = GAP) -> Pixels:
    """A grid of pictures (height, width, channel) of one shape, ``columns`` in a row, ``gap`` pixels around each.

    A single picture is returned as it is.
    """
    if len(images) == 1:
        return images[0]
    count, (height, width, channels) = len(images), images[0].shape
    canvas = np.full((*tile_shape(count, height, width, columns, gap), channels), _BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def tile_shape(count: int, height: int, width: int, columns: int, gap: int = GAP) -> tuple[int, int]:
    """Height and width of the grid that ``tile`` returns for ``count`` pictures."""
    if count == 1:
        return height, width
    rows = math.ceil(count / columns)
    return rows * (height + gap) + gap, columns * (width + gap) + gap


def enlarge(image: Pixels, scale: int) -> Pixels:
    """A picture (height, width, channel) with each pixel repeated ``scale`` >= 1 times in both directions."""
    if scale == 1:
        return image
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


@lru_cache
def _png_head(height: int, width: int, channels: int) -> bytes:
    """Signature and header."""
    if channels not in _PNG_COLOUR_TYPES:
        raise _wrong_channels(channels)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPES[channels], 0, 0, 0)
    return PNG_SIGNATURE + _png_chunk(b"IHDR", header)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk (RFC 2083, section 3.2): length, type, data, CRC of type and data."""
    checked = kind + data
    return b"%b%b%b" % (_number(len(data)), checked, _number(zlib_ng.crc32(checked)))


def _stored(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of one uncompressed block (RFC 1951, section 3.2.4)."""
    return b"\x78\x01\x01%b%b%b" % (_lengths(len(data), len(data) ^ 0xFFFF), data, _number(zlib_ng.adler32(data)))


_number, _lengths = struct.Struct(">I").pack, struct.Struct("<HH").pack
_PNG_END = _png_chunk(b"IEND", b"")
_PNG_COLOUR_TYPES = {1: 0, 3: 2}


def _to_pillow(image: Pixels) -> Image.Image:
    channels = image.shape[2]
    if channels not in _PNG_COLOUR_TYPES:
        raise _wrong_channels(channels)
    return Image.fromarray(image[:, :, 0] if channels == 1 else image)


def _indexed(picture: Image.Image) -> Image.Image:
    """In a GIF's colours: greys, or a palette of up to 256 colours chosen for the picture."""
    return picture if picture.mode == "L" else picture.convert("P", palette=Image.Palette.ADAPTIVE)


def _wrong_channels(channels: int) -> ValueError:
    return ValueError(f"a picture has 1 or 3 channels, not {channels}")
