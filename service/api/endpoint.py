"""Routes for the hot path: plain ASGI, beside FastAPI's own in the same app.

What FastAPI does around a handler (dependencies, body fields, response models) serves nothing here, where bodies are
read raw and answers are bytes, and costs more than a small model computes: docs/decisions/0005-asgi-on-the-hot-path.md.
"""

import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """Handlers by method as an ASGI application."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        request = Request(scope, receive)
        request.state.arrived_at = time.perf_counter()
        response = await self._handlers[scope["method"]](request)
        await response(scope, receive, send)


def route(path: str, handlers: Mapping[str, Handler]) -> Route:
    """``handlers`` by method at ``path``; what answers GET answers HEAD."""
    return Route(path, Endpoint(handlers), methods=list(handlers))
