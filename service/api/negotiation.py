"""Which format an answer takes: Accept with its q-values (RFC 9110, section 12.5.1)."""

from collections.abc import Iterable, Sequence

from starlette.requests import Request

from service.errors import NotAcceptable

PNG, JSON, NPY, GIF = "image/png", "application/json", "application/x-npy", "image/gif"


def accept_of(request: Request) -> list[str]:
    """The lines of Accept."""
    return [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"accept"]


def choose(accept: Iterable[str], offered: Sequence[str]) -> str:
    """The offered format that the lines of Accept want most; the first offered one where they do not care.

    Raises NotAcceptable when they exclude all of them.
    """
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
