"""Cacheable answers (RFC 9111): those to GET requests with seeds, which always give the same pictures."""

import hashlib

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.api.order import Cache, Order

FOR_EVER = b"public, max-age=31536000, immutable"
ASK_AGAIN = b"no-cache"


def cacheable(order: Order) -> Order:
    """``order`` with an ETag, which is known before computing; cached for ever if the request names the version.

    The ETag is weak: the same pictures may differ by a grey level, and JSON by its timings.
    """
    asked = order.asked
    shown = [
        order.model.manifest.version,
        order.path,
        order.params,
        order.media,
        asked.layout,
        asked.quality,
        None if order.uploads is None else order.uploads.digest().hex(),
    ]
    digest = hashlib.blake2b(to_json(shown), digest_size=12).hexdigest()
    return order._replace(cache=Cache(f'W/"{digest}"'.encode(), FOR_EVER if asked.version else ASK_AGAIN))


def not_modified(request: Request, cache: Cache) -> bool:
    """Whether the client has this answer already (If-None-Match, RFC 9110, section 13.1.2)."""
    lines = [value for name, value in request.scope["headers"] if name == b"if-none-match"]
    tags = [tag.strip() for line in lines for tag in line.split(b",")]
    bare = cache.etag.removeprefix(b"W/")
    return b"*" in tags or any(tag.removeprefix(b"W/") == bare for tag in tags)


def unchanged(cache: Cache) -> Response:
    """304: the client has this answer already."""
    headers = {"ETag": cache.etag.decode(), "Cache-Control": cache.control.decode(), "Vary": "Accept"}
    return Response(status_code=304, headers=headers)
