"""Routes for the hot path: plain ASGI, in front of FastAPI's own.

What FastAPI does around a handler (middlewares, dependencies, body fields, response models) serves nothing here, where
bodies are read raw and answers are bytes, and costs more than a small model computes:
docs/decisions/0005-asgi-on-the-hot-path.md.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from service.admission.lag import LoopLag
from service.api.http.error_handlers import respond
from service.api.http.request_id import HEADER, request_id
from service.errors import TooBusy
from service.logs import AccessLog
from service.request_info import WHOLE, info_of, route_path

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """Handlers by method as an ASGI application."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; whatever a handler raises becomes an answer."""
        info_of(scope).arrived_at = time.monotonic()
        request = Request(scope, receive)
        try:
            lag: LoopLag | None = getattr(scope["app"], "lag", None)  # FastAPI's own has none
            if lag is not None and lag.behind():
                raise TooBusy
            response = await self.handlers[scope["method"]](request)
        except Exception as failure:
            response = await respond(request, failure)
        response.raw_headers.append((HEADER, request_id(scope).encode()))
        info_of(scope).status = response.status_code
        # What sends itself as a plain response does has all of its body.
        if WHOLE in scope.get("extensions", ()) and type(response).__call__ is Response.__call__:
            headers = response.raw_headers
            await send({"type": WHOLE, "status": response.status_code, "headers": headers, "body": response.body})
        else:
            await response(scope, receive, send)


def route(path: str, handlers: Mapping[str, Handler]) -> Route:
    """``handlers`` by method at ``path``; what answers GET answers HEAD."""
    return Route(path, Endpoint(handlers), methods=list(handlers))


def _noted(scope: Scope, send: Send, log: AccessLog) -> Send:
    """``send``, which also tells ``log`` of the answer once all of it is sent."""
    info = info_of(scope)
    info.arrived_at = time.monotonic()

    async def noting(message: Message) -> None:
        await send(message)
        info.status = message.get("status", info.status)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            log.note(info, scope["method"], route_path(scope))

    return noting


class App(FastAPI):
    """FastAPI with endpoints that it hands requests to itself, before any of its layers.

    Only what matches exactly: all else (other methods, a slash at the end) goes FastAPI's way, which knows them too.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  (FastAPI's own)
        super().__init__(**options)
        #: What is told of every answer, and what refuses requests to endpoints; None until the service is up.
        self.access_log: AccessLog | None = None
        self.lag: LoopLag | None = None
        self._fixed: dict[str, Endpoint] = {}
        self._named: dict[str, tuple[Endpoint, str]] = {}

    def add_endpoint(self, route: Route) -> None:
        """Serve ``route``; itself where its path is fixed or ends with its one parameter, else FastAPI's way."""
        assert isinstance(route.app, Endpoint)
        self.router.routes.insert(0, route)
        head, _, last = route.path.rpartition("/")
        if "{" not in route.path:
            self._fixed[route.path] = route.app
        elif "{" not in head:
            self._named[head] = route.app, last.strip("{}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the lifespan."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        log, endpoint = self.access_log, self._match(scope)
        if endpoint is None:
            await self._through_fastapi(scope, receive, send if log is None else _noted(scope, send, log))
            return
        scope["app"] = self
        await endpoint(scope, receive, send)
        if log is not None:
            log.note(info_of(scope), scope["method"], route_path(scope))

    async def _through_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request as FastAPI does; HEAD is answered as GET is, and the answer tells the request's id."""
        identity = (HEADER, request_id(scope).encode())

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and identity not in message["headers"]:
                message["headers"] = [*message["headers"], identity]
            await send(message)

        # The server looks at its own scope when it leaves the body out. Layers know the messages of ASGI alone.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        extensions = {name: about for name, about in scope.get("extensions", {}).items() if name != WHOLE}
        await super().__call__({**scope, "method": method, "extensions": extensions}, receive, named)

    def _match(self, scope: Scope) -> Endpoint | None:
        path = route_path(scope)
        if (endpoint := self._fixed.get(path)) is not None:
            return endpoint if scope["method"] in endpoint.handlers else None
        head, _, last = path.rpartition("/")
        named = self._named.get(head)
        if named is None or not last or scope["method"] not in named[0].handlers:
            return None
        endpoint, parameter = named
        scope["path_params"] = {parameter: last}
        return endpoint
