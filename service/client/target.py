"""The address of the service, timeouts, and requests for httpx."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import httpx

from service.client.calls import Call
from service.client.errors import Unreachable, Unsendable

VARIABLE = "GENSERVE_URL"
KEY_VARIABLE = "GENSERVE_API_KEY"
DEFAULT = "http://127.0.0.1:8000"
CONNECT_S = 5.0


def base_url(url: str | None) -> httpx.URL:
    """``url``, else that of the environment, else the local service's. Raises ValueError if it is invalid."""
    text = url or os.environ.get(VARIABLE) or DEFAULT
    try:
        found = httpx.URL(text)
        found.host.encode("idna")  # as the resolver does, which raises for empty and for long labels
    except (httpx.InvalidURL, UnicodeError):
        found = httpx.URL()
    port = 80 if found.port is None else found.port
    if found.scheme not in ("http", "https") or not found.host or not 0 < port < 65_536:
        raise ValueError(f"{text!r} is not the address of a service, such as {DEFAULT}")
    return found


def key_header(api_key: str | None) -> dict[str, str]:
    """The header for ``api_key``, else for that of the environment; none without one. Raises ValueError."""
    key = api_key or os.environ.get(KEY_VARIABLE)
    if not key:
        return {}
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key has characters that no key has")
    return {"Authorization": f"Bearer {key}"}


def is_loopback(url: httpx.URL) -> bool:
    """Whether ``url`` is on this machine, where no proxy is used."""
    if url.host == "localhost" or url.host.endswith(".localhost"):
        return True
    try:
        address = ip_address(url.host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@contextmanager
def usable_environment() -> Iterator[None]:
    """Raise httpx's errors about proxies and TLS files of the environment as ValueError."""
    try:
        yield
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as failure:
        raise ValueError(f"the proxy or TLS settings of the environment cannot be used: {failure}") from None


def timeouts(seconds: float) -> httpx.Timeout:
    """Timeouts of ``seconds`` of silence, and a shorter one for connecting."""
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_S))


def request_of(http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
    """``call`` as a request of ``http``. Raises Unsendable."""
    headers = dict(call.headers)
    try:
        return http.build_request(call.method, call.path, json=call.json, content=call.content, headers=headers)
    except (TypeError, ValueError, RecursionError, httpx.InvalidURL) as failure:
        raise Unsendable(failure) from None


@contextmanager
def named_failures(http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
    """Raise httpx's errors of the connection as Unreachable."""
    try:
        yield
    except httpx.RequestError as failure:
        raise Unreachable(failure, http.base_url) from None
