"""Last responses on a connection, written by the protocol itself: problem documents like all others."""

from http import HTTPStatus
from random import getrandbits
from typing import NamedTuple

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.api.http.problem import PROBLEM_JSON, problem_of
from service.errors import ServiceStopping
from service.retry_after import spread

Headers = list[tuple[bytes, bytes]]


class Rejection(NamedTuple):
    """The last response on a connection. ``code`` may be empty: then it is the status in words.

    ``retry_after_s``: at least so many seconds are put into Retry-After, and after the ``detail``.
    """

    status: int
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    code: str = ""
    retry_after_s: int | None = None


MALFORMED = Rejection(400, "The request is not valid HTTP.")
#: 405 requires Allow; it is empty because no method is allowed on the target of a tunnel.
NO_TUNNEL = Rejection(405, "CONNECT is not supported: this is not a proxy.", ((b"allow", b""),))
TOO_SLOW = Rejection(408, "The head of the request took too long to arrive.")
TOO_MANY_FIELDS = Rejection(414, "The query has too many fields.")
TOO_LONG = Rejection(431, "The head of the request is too long, or has too many headers.")
TOO_MANY = Rejection(503, "There are too many connections.", retry_after_s=1)
STOPPING = Rejection(503, "The service stops.", code=ServiceStopping.code, retry_after_s=1)


def rejection_bytes(rejection: Rejection, defaults: Headers) -> bytes:
    """The response, with the server's ``defaults`` among its headers."""
    id = f"{getrandbits(96):024x}"
    code = rejection.code or HTTPStatus(rejection.status).phrase.lower().replace(" ", "-")
    detail, own = rejection.detail, [*rejection.headers]
    if rejection.retry_after_s is not None:
        wait_s = spread(rejection.retry_after_s)
        detail, own = f"{detail} Try again in {wait_s} s.", [*own, (b"retry-after", b"%d" % wait_s)]
    body = to_json(problem_of(id, rejection.status, code, detail, ()))
    headers = [(b"content-type", PROBLEM_JSON.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(b"cache-control", b"no-store"), (b"x-request-id", id.encode()), (b"connection", b"close")]
    return response_bytes(rejection.status, [*defaults, *own, *headers], body)


def response_bytes(status: int, headers: Headers, body: bytes) -> bytes:
    """A response whose headers are valid."""
    return b"%b%b\r\n\r\n%b" % (STATUS_LINE[status], b"\r\n".join(map(b": ".join, headers)), body)
