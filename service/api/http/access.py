"""Who may send a request, and the headers of every answer.

Plain ASGI on ``scope["path"]``, which is also what chooses the route: a URL that is put together from the request's
headers can differ from it. A path that is not listed here needs a key, whether there is a route or not.
"""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping
from typing import NoReturn

from starlette.responses import Response
from starlette.types import Scope

from service.access.buckets import BURST_S
from service.access.keys import SCOPES, Caller, KeyRing
from service.errors import CrossSite, NoKey, WrongScope
from service.request_info import info_of, route_path
from service.settings import Settings
from service.settings.access import listed

#: Paths that need no key: probes, the page, and the documents of the API.
PUBLIC = frozenset(
    {"/", "/docs", "/redoc", "/openapi.json", "/health", "/health/live", "/health/ready"}
    | {"/v2/health/live", "/v2/health/ready"}
)
PUBLIC_FOLDERS = ("/ui/", "/docs/")

#: The scopes of which a key needs one; ``GENERATE`` for all other paths.
_SCOPES: Mapping[str, Collection[str]] = {"/metrics": ("metrics",), "/stats": ("generate", "metrics")}
_GENERATE = ("generate",)

_POLICY = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#: Headers of every answer that has no such header of its own. The page needs another policy.
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", _POLICY),
    (b"cross-origin-resource-policy", b"same-origin"),
)

_READ = frozenset({b"authorization", b"x-api-key", b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode"})
#: Ports that browsers leave out of Origin.
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_PREFLIGHT = b"access-control-request-method"
_ALLOWED = {
    "Access-Control-Allow-Methods": "DELETE, GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match, "
    "Inference-Header-Content-Length, Last-Event-ID, Prefer, X-API-Key, X-Request-Id",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = (
    b"Content-Disposition, ETag, Idempotent-Replayed, Inference-Header-Content-Length, Location, Preference-Applied, "
    b"RateLimit, RateLimit-Policy, Retry-After, Server-Timing, X-Model, X-Model-Version, X-Request-Id, X-Seed"
)

Headers = Iterable[tuple[bytes, bytes]]


def authorize(headers: Mapping[bytes, bytes], keys: KeyRing, needed: Collection[str]) -> Caller:
    """The key in Authorization or X-API-Key. Raises NoKey, WrongScope if it has none of the scopes ``needed``."""
    secret = _secret(headers)
    caller = None if secret is None else keys.find(secret)
    if caller is None:
        _refuse(presented=bool(headers.keys() & {b"authorization", b"x-api-key"}))
    if not any(scope in needed for scope in caller.key.scopes):
        raise WrongScope(caller.key.name, needed)
    return caller


def _refuse(*, presented: bool) -> NoReturn:
    if presented:
        raise NoKey("This is not a valid API key.", invalid=True)
    raise NoKey("This needs an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.", invalid=False)


def _secret(headers: Mapping[bytes, bytes]) -> str | None:
    """The key that a request presents: as a bearer token, as the password of any user, or in X-API-Key."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value.strip().decode("latin-1")
        case b"basic":
            try:
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2].decode("latin-1")
            except binascii.Error:
                return None
        case b"":
            own = headers.get(b"x-api-key")
            return None if own is None else own.strip().decode("latin-1")
    return None


class Guard:
    """Checks requests by ``settings`` and ``keys``, and adds headers to answers."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self._keys = keys
        self._origins = frozenset(listed(settings.cors_origins))

    def check(self, scope: Scope) -> Response | None:
        """The answer to a preflight request; None for any other that may be handled.

        A request with a valid key is the key's from here on, and no more that of an address: its shares of the queue,
        its jobs and its kept answers. Raises NoKey, WrongScope, CrossSite.
        """
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        if b"sec-fetch-site" in headers or b"origin" in headers:
            if scope["method"] == "OPTIONS" and (answer := self._preflight(scope, headers)) is not None:
                return answer
            self._check_site(scope["method"], headers)
        if self._keys.required:
            path = route_path(scope)
            public = path in PUBLIC or path.startswith(PUBLIC_FOLDERS)
            try:
                caller = authorize(headers, self._keys, SCOPES if public else _SCOPES.get(path, _GENERATE))
            except NoKey:
                if not public:
                    raise
            else:
                info_of(scope).caller = caller
                scope["client"] = (caller.client, 0)
        return None

    def headers(self, scope: Scope) -> Headers:
        """Headers to add to the answer."""
        caller = info_of(scope).caller
        if caller is None and not self._origins:
            return SECURITY
        added = [*SECURITY]
        if caller is not None and (bucket := caller.bucket) is not None:
            policy = f'"work";q={bucket.quota_ms:.0f};w={BURST_S};qu="device-ms"'
            left = f'"work";r={max(0.0, bucket.left_ms):.0f};t={bucket.until_full_s()}'
            added += [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]
        if self._origins:
            added.append((b"vary", b"Origin"))
            if (origin := dict(scope["headers"]).get(b"origin", b"")) and self._allows(origin):
                added += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
        return added

    def _allows(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1") in self._origins

    def _preflight(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Response | None:
        asked = any(name == _PREFLIGHT for name, _ in scope["headers"])
        return Response(None, 204, _ALLOWED) if asked and self._allows(headers.get(b"origin", b"")) else None

    def _check_site(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise CrossSite for what a page of another site sends without asking: it could not read the answer.

        Links to the service may be followed. Browsers send Sec-Fetch-Site to https and localhost only, to other hosts
        Origin. Pages can change neither.
        """
        site = headers.get(b"sec-fetch-site")
        if site in (b"none", b"same-origin") or (site is None and _is_own(headers)):
            return
        follows = method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == b"navigate"
        if not follows and not (b"origin" in headers and self._allows(headers[b"origin"])):
            raise CrossSite


def _is_own(headers: Mapping[bytes, bytes]) -> bool:
    """Whether Origin is absent, or that of the pages at Host. The scheme is not compared: a proxy may add TLS."""
    if b"origin" not in headers:
        return True
    scheme, _, host = headers[b"origin"].lower().partition(b"://")
    own = headers.get(b"host", b"").lower().removesuffix(_DEFAULT_PORTS.get(scheme, b""))
    return own != b"" and host == own
