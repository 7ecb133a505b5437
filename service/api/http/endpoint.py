"""The application, and its plain ASGI routes.

FastAPI's own routes resolve dependencies and read fields of bodies that these handlers do not have, because they parse
raw bodies and return bytes: docs/decisions/0005-plain-asgi-routes.md.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission.lag import LoopLag
from service.api.http.error_handlers import error_response
from service.api.http.openapi import Operation, add_operations
from service.api.http.request_id import HEADER, request_id
from service.errors import TooBusy
from service.logs import AccessLog
from service.request_info import info_of, route_path


class Endpoint:
    """Handlers by method as an ASGI application."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self._handlers = {method: each.handler for method, each in operations.items()}
        if "GET" in self._handlers:
            self._handlers["HEAD"] = self._handlers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; an exception of the handler becomes an error response."""
        request = Request(scope, receive)
        try:
            lag: LoopLag | None = getattr(scope["app"], "lag", None)  # a plain FastAPI has none
            if lag is not None and lag.behind():
                raise TooBusy
            response = await self._handlers[scope["method"]](request)
        except Exception as failure:
            response = await error_response(request, failure)
        await response(scope, receive, send)


class DescribedRoute(Route):
    """A route with what the OpenAPI document says of it."""

    def __init__(self, path: str, operations: Mapping[str, Operation]) -> None:
        super().__init__(path, Endpoint(operations), methods=list(operations))
        self.operations = operations


def route(path: str, operations: Mapping[str, Operation]) -> DescribedRoute:
    """The operations at ``path``, by method; GET answers HEAD too."""
    return DescribedRoute(path, operations)


class HeadRoute(APIRoute):
    """FastAPI's route, which answers HEAD as it does GET."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["method"] == "HEAD" and "GET" in (self.methods or ()):
            scope = {**scope, "method": "GET"}  # the server reads its own scope when it leaves out the body
        await super().handle(scope, receive, send)


class App(FastAPI):
    """FastAPI with an access log, and a request id in every response.

    Put the busiest routes first: the router tries one route after another.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  (FastAPI's own)
        super().__init__(**options)
        #: Where requests are logged, and what rejects them while the event loop is overloaded; None until the service
        #: is up.
        self.access_log: AccessLog | None = None
        self.lag: LoopLag | None = None

    def add_routes(self, routes: Sequence[Route]) -> None:
        """Serve ``routes``, after those that are there."""
        self.router.routes.extend(routes)

    def build_middleware_stack(self) -> ASGIApp:
        """Only what the routes need: FastAPI's telemetry, body limit and error page cost time on every request."""
        return ExceptionMiddleware(AsyncExitStackMiddleware(self.router), self.exception_handlers)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of all routes."""
        if self.openapi_schema is None:
            document = super().openapi()  # kept in self.openapi_schema
            described = {each.path: each.operations for each in self.routes if isinstance(each, DescribedRoute)}
            add_operations(document, described, [tag["name"] for tag in self.openapi_tags or ()])
        assert self.openapi_schema is not None
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the lifespan."""
        if scope["type"] == "http":
            send = self._noting(scope, send)
        await super().__call__(scope, receive, send)

    def _noting(self, scope: Scope, send: Send) -> Send:
        """``send`` that adds the request's id, and logs the request when all of the response is sent."""
        info, identity = info_of(scope), (HEADER, request_id(scope).encode())
        info.arrived_at = time.monotonic()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                info.status = message["status"]
                message["headers"] = [*message["headers"], identity]
            await send(message)
            if self.access_log is not None and message["type"] == "http.response.body" and not message.get("more_body"):
                self.access_log.note(info, scope["method"], route_path(scope))

        return noting
