"""How a request is answered: at once when it is done, as a stream of events, or later, as a job."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request

from service.api.request.negotiation import EVENT_STREAM, JSON, PICTURES, media_of
from service.api.request.schemas import Task
from service.errors import BadRequest, InvalidField

#: Every media type of a response with pictures.
OFFERED = (*PICTURES, EVENT_STREAM)

#: Headers that can change the mode.
_MORE = frozenset({b"prefer", b"idempotency-key"})
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_WAIT = re.compile(r"\d{1,6}")


class ResponseMode(NamedTuple):
    """An answer of type ``media``; ``live``: a stream of events; ``wait_s``: a job if not done within these seconds.

    ``key``: the Idempotency-Key; requests with the same key are computed once.
    """

    media: str
    live: bool = False
    wait_s: float | None = None
    key: str | None = None

    @property
    def plain(self) -> bool:
        """Whether the request is answered when it is done, without a key."""
        return not self.live and self.wait_s is None and self.key is None


def response_mode_of(http_request: Request, request: Task, offered: Sequence[str] = OFFERED) -> ResponseMode:
    """The mode that the fields ``stream`` and ``format`` and the headers Accept, Prefer and Idempotency-Key select.

    Raises NotAcceptable, InvalidField, BadRequest.
    """
    media = media_of(http_request, request.format, offered)
    live = request.stream or media == EVENT_STREAM
    mode = ResponseMode(JSON if live else media, live)
    if not _MORE.isdisjoint(dict(http_request.scope["headers"])):
        mode = _with_headers(http_request, mode)
    if live and request.format not in (None, "json"):
        raise InvalidField.of("format", "has no effect in a stream, which ends with JSON", "json, or leave it out")
    if request.preview_every and not live and mode.wait_s is None and request.layout != "film":
        message = "has no effect: this response has no previews"
        raise InvalidField.of("preview_every", message, "stream: true, the header Prefer, or layout: film")
    return mode


def wait_of(http_request: Request) -> float | None:
    """Seconds after which ``http_request`` becomes a job, by the header Prefer (RFC 7240); None: it does not.

    ``wait=10`` is 10, ``respond-async`` alone is 0. The first occurrence counts; other preferences are ignored.
    """
    preferences: dict[str, str] = {}
    for line in http_request.headers.getlist("prefer"):
        for preference in line.split(","):
            name, _, value = preference.partition(";")[0].strip().partition("=")
            preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    if _WAIT.fullmatch(preferences.get("wait", "")):
        return float(preferences["wait"])
    return 0.0 if "respond-async" in preferences else None


def _with_headers(http_request: Request, mode: ResponseMode) -> ResponseMode:
    key = http_request.headers.get("idempotency-key") if http_request.method == "POST" else None
    if key is not None and not _KEY.fullmatch(key.encode("latin-1")):
        raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters.")
    mode = mode._replace(wait_s=wait_of(http_request), key=key)
    if mode.live and key is not None and mode.wait_s is None:
        raise BadRequest(
            "A stream cannot have an Idempotency-Key. Use a job, which has events too: Prefer: respond-async."
        )
    return mode
