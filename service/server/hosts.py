"""Rejects requests to other hosts.

A web page can have its own name lead to this machine (DNS rebinding): then the browser takes the service for a part of
that site, and lets the page read its answers. Such a request has the page's name in Host. An address there is harmless:
a browser that was sent to an address knows that it is one.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import WrongHost
from service.request_info import info_of
from service.settings import Settings
from service.settings.access import is_loopback, listed

#: Values of Host that are looked up instead of checked: clients use few.
MOST_KNOWN = 64


def with_hosts(app: ASGIApp, settings: Settings) -> ASGIApp:
    """``app``, for the hosts that ``settings`` allow."""
    names = {"localhost", *listed(settings.allowed_hosts)}
    if "*" in names or not (settings.allowed_hosts or is_loopback(settings.host)):
        return app
    public = urlsplit(settings.public_url).hostname
    return Hosts(app, frozenset(names if public is None else names | {public.lower()}))


class Hosts:
    """``app``, which answers requests with an error if Host is neither an address nor one of ``names``."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app, self._names = app, names
        self._known: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"host" and value not in self._known:
                    self._check(scope, value)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, host: bytes) -> None:
        """Mark the request as rejected, unless ``host`` is allowed."""
        text = host.decode("latin-1").lower()
        if not (host_of(text) in self._names or is_address(host_of(text))):
            info_of(scope).rejection = WrongHost(text)
        elif len(self._known) < MOST_KNOWN:
            self._known.add(host)


def host_of(text: str) -> str:
    """The host of ``host:port``; IPv6 addresses have brackets."""
    host, colon, port = text.rpartition(":")
    return host if colon and port.isdecimal() else text


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address."""
    try:
        ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return True
