"""GET / and /ui/{file}: the playground for browsers, and links for programs."""

import hashlib
from pathlib import Path, PurePath
from typing import NamedTuple

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.http.endpoint import HeadRoute
from service.api.order import Cache
from service.api.request.negotiation import JSON, accept_of, choose
from service.api.response.caching import ASK_AGAIN, not_modified, unchanged
from service.api.response.reproduce import root_of

router = APIRouter(include_in_schema=False, route_class=HeadRoute)

FOLDER = Path(__file__).parents[2] / "playground"
PAGE = "index.html"
HTML = "text/html"

_TYPES = {
    ".html": HTML,
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

#: The links for programs.
LINKS = {
    "models": "/models",
    "health": "/health",
    "metrics": "/metrics",
    "docs": "/docs",
    "openapi": "/openapi.json",
}


class Asset(NamedTuple):
    """A file of the page."""

    content: bytes
    media_type: str
    cache: Cache


def read_asset(name: str, content: bytes) -> Asset:
    """The file ``content``, of the type that the end of ``name`` says."""
    etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    return Asset(content, _TYPES[PurePath(name).suffix], Cache(etag.encode(), ASK_AGAIN))


#: The page's files by their names below its folder, read once; nothing else can be requested.
ASSETS = {
    path.relative_to(FOLDER).as_posix(): read_asset(path.name, path.read_bytes())
    for path in FOLDER.rglob("*")
    if path.suffix in _TYPES
}


@router.get("/")
async def root(request: Request) -> Response:
    """The page for a browser; for other clients a JSON document of links. Raises NotAcceptable."""
    if choose(accept_of(request), (JSON, HTML)) == HTML:
        response = answer_asset(request, ASSETS[PAGE])
    else:
        links = {name: root_of(request) + path for name, path in LINKS.items()}
        response = JSONResponse({"name": request.app.title, "version": request.app.version, "links": links})
    response.headers["Vary"] = "Accept"
    return response


@router.get("/ui/{name:path}")
async def asset(name: str, request: Request) -> Response:
    """One of the page's files."""
    return answer_asset(request, ASSETS.get(name))


def answer_asset(request: Request, found: Asset | None) -> Response:
    """A file; 304 where the client has it. Raises HTTPException where there is none.

    A browser takes the headers of a 304 for those of the file that it has: the policy must be the page's there too.
    """
    if found is None:
        raise HTTPException(404, "There is no such file.", HEADERS)
    if not_modified(request, found.cache):
        response = unchanged(found.cache)
        response.headers.update(HEADERS)
        return response
    kept = {"ETag": found.cache.etag.decode(), "Cache-Control": found.cache.control.decode()}
    return Response(found.content, media_type=found.media_type, headers=HEADERS | kept)
