"""Which format an answer takes: the field ``format``, else Accept with its q-values (RFC 9110, section 12.5.1)."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from starlette.requests import Request

from service.errors import NotAcceptable

PNG, WEBP, JPEG, GIF = "image/png", "image/webp", "image/jpeg", "image/gif"
JSON, NPY, ZIP = "application/json", "application/x-npy", "application/zip"
EVENT_STREAM = "text/event-stream"

Format = Literal["png", "webp", "jpeg", "gif", "npy", "zip", "json"]
MEDIA: dict[Format, str] = {"png": PNG, "webp": WEBP, "jpeg": JPEG, "gif": GIF, "npy": NPY, "zip": ZIP, "json": JSON}
FORMAT: dict[str, Format] = {media: name for name, media in MEDIA.items()}

#: What pictures are answered in, the first of them where Accept does not care.
PICTURES = (PNG, JSON, NPY, WEBP, JPEG, GIF, ZIP)

#: Those that show all pictures of an answer in one image.
ONE_IMAGE = frozenset({PNG, WEBP, JPEG})


def media_of(request: Request, asked: Format | None, offered: Sequence[str] = PICTURES) -> str:
    """The media type of the answer: that of ``asked``, the request's own field, else what Accept wants most.

    Raises NotAcceptable.
    """
    return choose(accept_of(request), offered) if asked is None else MEDIA[asked]


def accept_of(request: Request) -> list[str]:
    """The lines of Accept."""
    return [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"accept"]


def choose(accept: Iterable[str], offered: Sequence[str]) -> str:
    """The offered format that the lines of Accept want most; the first offered one where they do not care.

    Raises NotAcceptable when they exclude all of them.
    """
    return _choose(tuple(accept), tuple(offered))


@lru_cache(maxsize=64)  # a client says the same every time; heads are bounded, and so is what this keeps
def _choose(accept: tuple[str, ...], offered: tuple[str, ...]) -> str:
    ranges = [_parse(part) for line in accept for part in line.split(",") if part.strip()]
    if not ranges:
        return offered[0]
    best = max(offered, key=lambda media: _quality(media, ranges))  # max keeps the first of equals
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(offered)
    return best


def _parse(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    text = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        quality = float(text)
    except ValueError:
        return media, 0.0
    return media, quality if 0 <= quality <= 1 else 0.0


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The q of the most specific range that matches."""
    kind = media.split("/")[0]
    for pattern in (media, f"{kind}/*", "*/*"):
        matching = [quality for name, quality in ranges if name == pattern]
        if matching:
            return max(matching)
    return 0.0
