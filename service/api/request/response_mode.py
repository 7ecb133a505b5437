"""In which of three ways a request is answered: when it is done, as events, or later, as a job."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request

from service.api.request.negotiation import EVENT_STREAM, JSON, PICTURES, media_of
from service.api.request.schemas import Task
from service.errors import BadRequest, FieldProblem, InvalidField

#: All that pictures are answered in.
OFFERED = (*PICTURES, EVENT_STREAM)

#: Headers that ask for more than an answer when it is done.
_MORE = frozenset({b"prefer", b"idempotency-key"})
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_WAIT = re.compile(r"\d{1,6}")


class ResponseMode(NamedTuple):
    """``media``, at once; ``live``, as events; or a job, if it is not done in ``wait_s`` seconds.

    ``key`` is the client's name for the request, by which it is computed once however often it is sent.
    """

    media: str
    live: bool = False
    wait_s: float | None = None
    key: str | None = None

    @property
    def plain(self) -> bool:
        """Whether it is the answer when it is done, and no more."""
        return not self.live and self.wait_s is None and self.key is None


def response_mode_of(request: Request, asked: Task, offered: Sequence[str] = OFFERED) -> ResponseMode:
    """How to answer ``request`` in one of ``offered``.

    Its fields ``stream`` and ``format`` say so, and its headers Accept, Prefer and Idempotency-Key.

    Raises NotAcceptable, InvalidField, BadRequest.
    """
    media = media_of(request, asked.format, offered)
    live = asked.stream or media == EVENT_STREAM
    mode = ResponseMode(JSON if live else media, live)
    if not _MORE.isdisjoint(dict(request.scope["headers"])):
        mode = _with_headers(request, mode)
    if live and asked.format not in (None, "json"):
        raise InvalidField.of("format", "means nothing to a stream, which ends with JSON", "json, or leave it out")
    if asked.preview_every and not live and mode.wait_s is None and asked.layout != "film":
        problem = "shows pictures on their way, and this answer comes when they are done"
        raise InvalidField(
            [FieldProblem("#/preview_every", problem, "stream: true, the header Prefer, or layout: film")]
        )
    return mode


def wait_of(request: Request) -> float | None:
    """For how many seconds the client waits before it takes "not yet" for an answer (RFC 7240).

    ``Prefer: wait=10`` is ten, ``respond-async`` none, unless with both; None where it says neither. What else Prefer
    says, or says again, does not count.
    """
    preferences: dict[str, str] = {}
    for line in request.headers.getlist("prefer"):
        for preference in line.split(","):
            name, _, value = preference.partition(";")[0].strip().partition("=")
            preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    if _WAIT.fullmatch(preferences.get("wait", "")):
        return float(preferences["wait"])
    return 0.0 if "respond-async" in preferences else None


def _with_headers(request: Request, mode: ResponseMode) -> ResponseMode:
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    if key is not None and not _KEY.fullmatch(key.encode("latin-1")):
        raise BadRequest("Idempotency-Key is 1 to 255 visible ASCII characters.")
    mode = mode._replace(wait_s=wait_of(request), key=key)
    if mode.live and key is not None and mode.wait_s is None:
        raise BadRequest(
            "A stream is not kept for its Idempotency-Key: a job is (Prefer: respond-async), events and all."
        )
    return mode
