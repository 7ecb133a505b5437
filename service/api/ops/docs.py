"""GET /docs and /redoc: FastAPI's interactive pages of the OpenAPI document, with nothing from other hosts."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service.api.ops.playground import Asset, answer_asset, read_asset

router = APIRouter(include_in_schema=False)

#: Paths are relative, so that the pages work below any root path.
_ICON = "docs/favicon.png"
#: ReDoc would load its logo from here.
_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"

#: The column of links between operations, of which there are none, is wider than a phone; so are long media types.
_STYLE = b"""
.swagger-ui .response-col_links { display: none; }
.swagger-ui table tbody tr td, .swagger-ui .markdown code { overflow-wrap: anywhere; }
.swagger-ui select { max-width: 100%; }
"""


def _asset(name: str, content: bytes) -> Asset:
    style = _STYLE if name == "swagger-ui.css" else b""
    return read_asset(name, content.replace(_LOGO, _ICON.encode()) + style)


#: The pages' scripts, style and icon, by name: those of the package fastapi-offline.
ASSETS: dict[str, Asset] = {
    path.name: _asset(path.name, path.read_bytes()) for path in (files("fastapi_offline") / "static").iterdir()
}

_SWAGGER = get_swagger_ui_html(
    openapi_url="openapi.json",
    title="genserve: API",
    swagger_js_url="docs/swagger-ui-bundle.js",
    swagger_css_url="docs/swagger-ui.css",
    swagger_favicon_url=_ICON,
    # All operations fit on the screen; models and long field lists open on a click.
    swagger_ui_parameters={"defaultModelsExpandDepth": 0, "docExpansion": "list", "tryItOutEnabled": False},
)
_REDOC = get_redoc_html(
    openapi_url="openapi.json",
    title="genserve: API",
    redoc_js_url="docs/redoc.standalone.js",
    redoc_favicon_url=_ICON,
    with_google_fonts=False,
)


def _page(html: HTMLResponse, style: str) -> Response:
    """A page that may run its own inline script and its host's files, and load nothing else."""
    inline = re.findall(rb"<script>(.*?)</script>", bytes(html.body), re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in inline]
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes)} 'self'; style-src {style}; "
        "img-src 'self' data: blob:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return HTMLResponse(html.body, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})


def _serve(path: str, response: Response) -> None:
    async def page(request: Request) -> Response:  # noqa: ARG001
        return response

    router.add_route(path, page)


_serve("/docs", _page(_SWAGGER, "'self'"))
# ReDoc's styles are elements that its script adds.
_serve("/redoc", _page(_REDOC, "'self' 'unsafe-inline'"))


async def asset(request: Request) -> Response:
    """A script, style or icon of the pages."""
    return answer_asset(request, ASSETS.get(request.path_params["name"]))


router.add_route("/docs/{name}", asset)
