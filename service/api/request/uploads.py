"""Pictures that clients send: from bytes of any origin to pixels of a model's own size. No URL is ever fetched.

The format is detected from the first bytes, and nothing else. `service.decoding` bounds what a file may cost.
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

#: First bytes of GIF, BMP and TIFF, which are not read; AVIF and HEIC have the length of their first box before this.
_UNREAD, _BOX = (b"GIF8", b"BM", b"II*\0", b"MM\0*"), b"ftyp"

#: The field that a body which is nothing but a picture stands for.
PICTURE_FIELD = "image"


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


def is_picture(data: bytes) -> bool:
    """Whether ``data`` begins as a picture does, of a format that is read or of another."""
    return sniff(data) is not None or data.startswith(_UNREAD) or data[4:8] == _BOX


async def read_picture(field: str, data: bytes, image_shape: Sequence[int], settings: Settings) -> Fitted:
    """The picture in ``data``, at ``image_shape`` (channel, height, width); ``field`` is what to call it in errors.

    Of a picture of another shape than the model's, the middle part is taken. Raises ImageTooLarge, UnsupportedImage,
    BadRequest where the file is damaged or costs too much to decode, and TooBusy.
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
    """The format of an uploaded file, by its first bytes. Raises ImageTooLarge, UnsupportedImage."""
    if len(data) > max_bytes:
        problem = FieldProblem(f"#/{field}", f"{len(data)} bytes are too many", f"up to {max_bytes}")
        raise ImageTooLarge(f"{field}: a picture may have up to {max_bytes} bytes.", [problem])
    kind = sniff(data)
    if kind is None:
        raise UnsupportedImage(
            f"{field}: this is none of the formats that are read: {READ}.",
            [FieldProblem(f"#/{field}", "is in no format that is read", READ)],
        )
    return kind


def _too_many_pixels(field: str, width: int, height: int, megapixels: float) -> ImageTooLarge:
    allowed = f"up to {megapixels:g} megapixels"
    problem = FieldProblem(f"#/{field}", f"{width} x {height} pixels are too many", allowed)
    return ImageTooLarge(
        f"{field}: a picture of {width} x {height} pixels is too large: {allowed} are read.", [problem]
    )


def _warnings(field: str, decoded: Decoded, image_shape: Sequence[int]) -> Iterator[str]:
    channels, height, width = image_shape
    if decoded.size != (width, height):
        own_width, own_height = decoded.size
        yield f"{field}: re-sampled from {own_width} x {own_height} to {width} x {height} pixels"
    if channels == 1 and decoded.coloured:
        yield f"{field}: its colours became greys"
    if decoded.alpha:
        yield f"{field}: what is transparent became white"
