"""Uploaded pictures: from untrusted bytes to pixels of the model's size. URLs are never fetched.

The format is detected from the first bytes only. `service.decoding` bounds the cost of a file.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BeforeValidator, WithJsonSchema

from service.decoding.fit import Decoded, TooManyPixels
from service.decoding.pool import readers_of
from service.decoding.strip import Unreadable, sniff
from service.errors import BadRequest, FieldProblem, ImageTooLarge, UnsupportedImage
from service.images import Pixels
from service.settings import Settings

READ = "PNG, JPEG, WebP"
UPLOADS = ("image/png", "image/jpeg", "image/webp")

#: First bytes of GIF, BMP and TIFF, which are not supported; AVIF and HEIC have theirs behind a length.
_UNREAD, _BOX = (b"GIF8", b"BM", b"II*\0", b"MM\0*"), b"ftyp"

#: The field that a body stands for which is itself a picture.
PICTURE_FIELD = "image"


def _to_bytes(value: object) -> object:
    """The bytes of base64 text or a data URI; bytes, which come from a form, as they are."""
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        head, comma, value = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("must be a data URI of the form data:image/png;base64,...")
    elif "://" in value[:32]:
        raise ValueError("is a URL, and URLs are not fetched: send the picture itself, as base64")
    try:
        return base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not valid base64") from None


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


def is_picture(data: bytes) -> bool:
    """Whether ``data`` starts like a picture, of a supported format or another."""
    return sniff(data) is not None or data.startswith(_UNREAD) or data[4:8] == _BOX


async def read_picture(field: str, data: bytes, image_shape: Sequence[int], settings: Settings) -> Fitted:
    """The picture in ``data``, cropped to the centre and resized to ``image_shape`` (channel, height, width).

    ``field`` names it in errors. Raises ImageTooLarge, UnsupportedImage, BadRequest where the file is damaged or costs
    too much to decode, and TooBusy.
    """
    check_file(field, data, settings.max_image_bytes)
    channels, height, width = image_shape
    try:
        decoded = await readers_of(settings).decode(data, channels, height, width)
    except TooManyPixels as failure:
        raise _too_many_pixels(field, *failure.size, settings.max_image_megapixels) from None
    except Unreadable as failure:
        problem = FieldProblem(f"#/{field}", f"cannot be decoded: {failure}")
        raise BadRequest(f"{field}: the picture cannot be decoded: {failure}.", [problem]) from None
    alpha = np.frombuffer(decoded.alpha, np.uint8).reshape(height, width) if decoded.alpha else None
    pixels = np.frombuffer(decoded.pixels, np.uint8).reshape(height, width, channels)
    return Fitted(pixels, alpha, tuple(_warnings(field, decoded, image_shape)))


def check_file(field: str, data: bytes, max_bytes: int) -> str:
    """The format of an uploaded file by its first bytes. Raises ImageTooLarge, UnsupportedImage."""
    if len(data) > max_bytes:
        problem = FieldProblem(f"#/{field}", f"has {len(data)} bytes", f"up to {max_bytes}")
        raise ImageTooLarge(f"{field}: a picture may have up to {max_bytes} bytes.", [problem])
    kind = sniff(data)
    if kind is None:
        raise UnsupportedImage(
            f"{field}: the format is not supported. Supported: {READ}.",
            [FieldProblem(f"#/{field}", "has an unsupported format", READ)],
        )
    return kind


def _too_many_pixels(field: str, width: int, height: int, megapixels: float) -> ImageTooLarge:
    allowed = f"up to {megapixels:g} megapixels"
    problem = FieldProblem(f"#/{field}", f"has {width} x {height} pixels", allowed)
    return ImageTooLarge(
        f"{field}: a picture of {width} x {height} pixels is too large. Allowed: {allowed}.", [problem]
    )


def _warnings(field: str, decoded: Decoded, image_shape: Sequence[int]) -> Iterator[str]:
    channels, height, width = image_shape
    if decoded.size != (width, height):
        own_width, own_height = decoded.size
        yield f"{field}: resized from {own_width} x {own_height} to {width} x {height} pixels"
    if channels == 1 and decoded.coloured:
        yield f"{field}: colours were converted to grey"
    if decoded.alpha:
        yield f"{field}: transparent areas became white"
