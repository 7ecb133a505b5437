"""Routes for the hot path: plain ASGI, beside FastAPI's own in the same app.

What FastAPI does around a handler (dependencies, body fields, response models) serves nothing here, where bodies are
read raw and answers are bytes, and costs more than a small model computes: docs/decisions/0005-asgi-on-the-hot-path.md.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """A handler as an ASGI application."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


def route(method: str, path: str, handler: Handler) -> Route:
    """``handler`` at ``path`` for requests of ``method``."""
    return Route(path, Endpoint(handler), methods=[method])
