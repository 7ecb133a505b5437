"""Pictures that clients send: from bytes of any origin to pixels of a model's own size. No URL is ever fetched.

What a file is, its first bytes say, and nothing else. Its size is read and bounded before any pixel is decoded.
"""

import asyncio
import base64
import binascii
import io
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from pydantic import BeforeValidator, WithJsonSchema

from service.errors import BadRequest, FieldProblem, ImageTooLarge, UnsupportedImage
from service.images import PNG_SIGNATURE, Pixels
from service.settings import Settings

MAX_PIXELS = 4096 * 4096
READ = "PNG, JPEG, WebP"
UPLOADS = ("image/png", "image/jpeg", "image/webp")

#: How pictures begin that are not read: GIF, BMP, TIFF. Of AVIF and HEIC the length of the first box comes before this.
_UNREAD, _BOX = (b"GIF8", b"BM", b"II*\0", b"MM\0*"), b"ftyp"

#: The field that a body which is nothing but a picture stands for.
PICTURE_FIELD = "image"

# Pillow would warn at another number than ours, and refuse at twice that.
Image.MAX_IMAGE_PIXELS = None


def _to_bytes(value: object) -> object:
    """Base64 or a data URI as the bytes it means; bytes, which a form has, as they are."""
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        head, comma, value = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("a data URI holds a picture as data:image/png;base64,")
    elif "://" in value[:32]:
        raise ValueError("an address is never fetched: send the picture itself, as base64")
    try:
        return base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is no picture in base64") from None


#: A field that holds a picture: base64 or a data URI in JSON, a file in a form.
Upload = Annotated[
    bytes, BeforeValidator(_to_bytes), WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 1})
]


class Fitted(NamedTuple):
    """An upload at a model's size: ``pixels`` (height, width, channel), and ``alpha`` (height, width) if it had one.

    Where alpha was under 255, ``pixels`` are composited on white.
    """

    pixels: Pixels
    alpha: Pixels | None
    warnings: tuple[str, ...]


def sniff(data: bytes) -> str | None:
    """PNG, JPEG or WEBP, by the first bytes; None for anything else."""
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def is_picture(data: bytes) -> bool:
    """Whether ``data`` begins as a picture does, of a format that is read or of another."""
    return sniff(data) is not None or data.startswith(_UNREAD) or data[4:8] == _BOX


async def read_picture(field: str, data: bytes, image_shape: Sequence[int], settings: Settings) -> Fitted:
    """The picture in ``data``, at ``image_shape`` (channel, height, width); ``field`` is what to call it in errors.

    Raises ImageTooLarge, UnsupportedImage, or BadRequest where the file is broken.
    """
    return await asyncio.to_thread(fit, field, data, image_shape, settings.max_image_bytes)


def fit(field: str, data: bytes, image_shape: Sequence[int], max_bytes: int) -> Fitted:
    """``read_picture`` on this thread. Of a picture of another shape than the model's, the middle part is taken."""
    channels, height, width = image_shape
    image = _decode(field, data, max_bytes)
    colour, alpha = _flatten(image)
    warnings = []
    if colour.size != (width, height):
        warnings.append(f"{field}: re-sampled from {colour.width} x {colour.height} to {width} x {height} pixels")
    if channels == 1 and _has_colours(colour):
        warnings.append(f"{field}: its colours became greys")
    if alpha is not None:
        warnings.append(f"{field}: what is transparent became white")
    grey_or_colour = _resize(colour.convert("L" if channels == 1 else "RGB"), width, height)
    transparency = None if alpha is None else _pixels(_resize(alpha, width, height))[:, :, 0]
    return Fitted(_pixels(grey_or_colour), transparency, tuple(warnings))


def check_file(field: str, data: bytes, max_bytes: int) -> str:
    """The format of an uploaded file. Raises ImageTooLarge, UnsupportedImage, or BadRequest for a broken WebP."""
    if len(data) > max_bytes:
        problem = FieldProblem(f"#/{field}", f"{len(data)} bytes are too many", f"up to {max_bytes}")
        raise ImageTooLarge(f"{field}: a picture may have up to {max_bytes} bytes.", [problem])
    kind = sniff(data)
    if kind is None:
        raise UnsupportedImage(
            f"{field}: this is none of the formats that are read: {READ}.",
            [FieldProblem(f"#/{field}", "is in no format that is read", READ)],
        )
    if kind == "WEBP":  # Pillow makes room for all of its pixels when it opens one
        _check_size(field, *_webp_size(field, data))
    return kind


def _decode(field: str, data: bytes, max_bytes: int) -> Image.Image:
    kind = check_file(field, data, max_bytes)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_size(field, *image.size)
            image.load()
            return ImageOps.exif_transpose(image)
    except ImageTooLarge:
        raise
    except Exception as failure:  # a broken file leads Pillow's readers to errors of every kind
        raise _broken(field) from failure


def _check_size(field: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        problem = FieldProblem(f"#/{field}", f"{width} x {height} pixels are too many", "up to 4096 x 4096")
        raise ImageTooLarge(f"{field}: a picture may have up to 4096 x 4096 pixels.", [problem])


def _webp_size(field: str, data: bytes) -> tuple[int, int]:
    """Width and height by the header of the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind, head = data[12:16], data[20:30]
    if len(head) == 10 and kind == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if len(head) == 10 and kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(head) == 10 and kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise _broken(field)


def _broken(field: str) -> BadRequest:
    return BadRequest(f"{field}: the picture cannot be decoded.", [FieldProblem(f"#/{field}", "cannot be decoded")])


def _flatten(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """L or RGB on white, and the alpha channel (L) if there is one that is not opaque."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB"), None
    colour = image.convert("RGBA")
    alpha = colour.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return colour.convert("L" if grey else "RGB"), None
    white = Image.new("RGBA", colour.size, "white")
    return Image.alpha_composite(white, colour).convert("L" if grey else "RGB"), alpha


def _has_colours(image: Image.Image) -> bool:
    """Whether there is anything but greys in L or RGB: many files hold greys as three equal channels."""
    pixels = _pixels(image)
    return bool((pixels != pixels[:, :, :1]).any())


def _resize(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def _pixels(image: Image.Image) -> Pixels:
    array = np.asarray(image, dtype=np.uint8)
    return array.reshape(*array.shape[:2], -1)
