"""The format of a response: the field ``format``, else Accept with its q-values (RFC 9110, section 12.5.1)."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Literal

from starlette.requests import Request

from service.errors import NotAcceptable

PNG, WEBP, JPEG, GIF = "image/png", "image/webp", "image/jpeg", "image/gif"
JSON, NPY, ZIP = "application/json", "application/x-npy", "application/zip"
EVENT_STREAM = "text/event-stream"

Format = Literal["png", "webp", "jpeg", "gif", "npy", "zip", "json"]
MEDIA: dict[Format, str] = {"png": PNG, "webp": WEBP, "jpeg": JPEG, "gif": GIF, "npy": NPY, "zip": ZIP, "json": JSON}
FORMAT: dict[str, Format] = {media: name for name, media in MEDIA.items()}

#: Media types of pictures; the first is the default.
PICTURES = (PNG, JSON, NPY, WEBP, JPEG, GIF, ZIP)

#: Media types that show all pictures of a response in one image.
ONE_IMAGE = frozenset({PNG, WEBP, JPEG})


def media_of(request: Request, name: Format | None, offered: Sequence[str] = PICTURES) -> str:
    """The media type of ``name``, the field of ``request``; without it, the one that Accept prefers.

    Raises NotAcceptable.
    """
    return choose(accept_of(request), offered) if name is None else MEDIA[name]


def accept_of(request: Request) -> list[str]:
    """The Accept headers of ``request``."""
    return [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"accept"]


def choose(accept: Iterable[str], offered: Sequence[str]) -> str:
    """The offered media type that the ``accept`` headers prefer; the first one of equals.

    Raises NotAcceptable where they exclude all of them.
    """
    return _choose(tuple(accept), tuple(offered))


#: Media types of a request, and parameters of each, that are read: the others have no effect. Clients send about ten.
MOST_RANGES = 64
MOST_PARAMETERS = 8


@lru_cache(maxsize=64)  # clients repeat their headers; these are bounded, and so is the cache
def _choose(accept: tuple[str, ...], offered: tuple[str, ...]) -> str:
    parts = (part for line in accept for part in line.split(",", MOST_RANGES) if part.strip())
    ranges = [_parse(part) for part in islice(parts, MOST_RANGES)]
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda media: _quality(media, ranges))  # max keeps the first of equals
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(offered)
    return best


def _parse(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";", MOST_PARAMETERS))
    text = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        quality = float(text)
    except ValueError:
        return media, 0.0
    return media, quality if 0 <= quality <= 1 else 0.0


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The q-value of the most specific range that matches ``media``."""
    kind = media.split("/")[0]
    for pattern in (media, f"{kind}/*", "*/*"):
        matching = [quality for name, quality in ranges if name == pattern]
        if matching:
            return max(matching)
    return 0.0
