"""Where the service is, for how long it may keep silent, and how it is asked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from service.client.calls import Call
from service.client.errors import Unreachable

VARIABLE = "GENSERVE_URL"
DEFAULT = "http://127.0.0.1:8000"
CONNECT_S = 5.0


def base_url(url: str | None) -> httpx.URL:
    """``url``, else that of the environment, else the local service's. Raises ValueError where it is no address."""
    text = url or os.environ.get(VARIABLE) or DEFAULT
    try:
        found = httpx.URL(text)
    except httpx.InvalidURL:
        found = httpx.URL()
    if found.scheme not in ("http", "https") or not found.host:
        raise ValueError(f"{text!r} is no address of a service; one looks like {DEFAULT}")
    return found


def timeouts(seconds: float) -> httpx.Timeout:
    """Seconds of silence until a call is given up; a connection is quicker made or not at all."""
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_S))


def request_of(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    """``call`` as ``http`` sends it."""
    headers = dict(call.headers)
    return http.build_request(call.method, call.path, json=call.json, content=call.content, headers=headers)


@contextmanager
def named_failures(http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
    """Have what breaks the connection of ``http`` raised as Unreachable."""
    try:
        yield
    except httpx.TransportError as failure:
        raise Unreachable(failure, http.base_url) from None
