"""Restores the URL that the client used, for requests that a proxy forwards.

Only if a setting asks for it: otherwise no request passes through here.
"""

from urllib.parse import urlsplit

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import Settings


def behind_proxy(app: ASGIApp, settings: Settings) -> ASGIApp:
    """``app``, under the public URL and the root path of ``settings`` if they are set."""
    return PublicUrl(app, settings.public_url, settings.root_path) if settings.public_url or settings.root_path else app


class PublicUrl:
    """``app`` with the scheme, Host and root path of its public URL, so that its own URLs lead through the proxy."""

    def __init__(self, app: ASGIApp, public_url: str, root_path: str) -> None:
        self._app, self._root_path = app, root_path
        public = urlsplit(public_url)
        self._scheme, self._host = public.scheme, public.netloc.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. The path in ``scope`` includes the root path, as ASGI requires."""
        if scope["type"] == "http":
            if scope["path"] == self._root_path:
                # The page's links are relative, so its URL must end with a slash.
                await RedirectResponse(f"{self._root_path}/", 308)(scope, receive, send)
                return
            self._restore(scope)
        await self._app(scope, receive, send)

    def _restore(self, scope: Scope) -> None:
        if self._host:
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope["scheme"], scope["headers"] = self._scheme, [(b"host", self._host), *others]
        if not scope["path"].startswith(f"{self._root_path}/"):  # the proxy has removed it
            scope["path"] = self._root_path + scope["path"]
            scope["raw_path"] = self._root_path.encode() + scope["raw_path"]
        scope["root_path"] = self._root_path
