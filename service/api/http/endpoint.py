"""The application, and its plain ASGI routes.

FastAPI's own routes resolve dependencies and read fields of bodies that these handlers do not have, because they parse
raw bodies and return bytes: docs/decisions/0005-plain-asgi-routes.md.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission.lag import LoopLag
from service.api.http.access import SECURITY, Guard, Headers
from service.api.http.error_handlers import error_response
from service.api.http.openapi import Operation, add_operations
from service.api.http.request_id import HEADER, request_id
from service.api.http.samples import add_samples
from service.errors import ServiceError, TooBusy
from service.logs import AccessLog
from service.request_info import WHOLE, info_of, route_path


class Endpoint:
    """Handlers by method as an ASGI application."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self._handlers = {method: each.handler for method, each in operations.items()}
        if "GET" in self._handlers:
            self._handlers["HEAD"] = self._handlers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        response = await self.response(scope, receive)
        await response(scope, receive, send)

    async def response(self, scope: Scope, receive: Receive) -> Response:
        """The response to a request; an exception of the handler becomes an error response."""
        request = Request(scope, receive)
        try:
            lag: LoopLag | None = getattr(scope["app"], "lag", None)  # a plain FastAPI has none
            if lag is not None and lag.behind():
                raise TooBusy
            return await self._handlers[scope["method"]](request)
        except Exception as failure:
            return await error_response(request, failure)


class DescribedRoute(Route):
    """A route with what the OpenAPI document says of it."""

    def __init__(self, path: str, operations: Mapping[str, Operation]) -> None:
        self.endpoint_app = Endpoint(operations)
        super().__init__(path, self.endpoint_app, methods=list(operations))
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
    """FastAPI with a check who may send requests, an access log, and the same headers in every response.

    Described routes that match a request are called before FastAPI's layers, which do nothing for them and cost several
    percent of a request. Put the busiest routes first: they are tried one after another.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  (FastAPI's own)
        super().__init__(**options, openapi_url=None)
        #: The OpenAPI document by the root path, which is the proxy's or none.
        self._encoded: dict[str, bytes] = {}
        self._encoding = asyncio.Lock()
        self.add_route("/openapi.json", self.openapi_json)
        #: Who may send requests, where they are logged, and what rejects them while the event loop is overloaded; None
        #: until the service is up.
        self.guard: Guard | None = None
        self.access_log: AccessLog | None = None
        self.lag: LoopLag | None = None
        self._described: list[DescribedRoute] = []

    def add_routes(self, routes: Sequence[Route]) -> None:
        """Serve ``routes``, after those that are there."""
        self.router.routes.extend(routes)
        self._described += [each for each in routes if isinstance(each, DescribedRoute)]

    def build_middleware_stack(self) -> ASGIApp:
        """Only what the routes need: FastAPI's telemetry, body limit and error page cost time on every request."""
        return ExceptionMiddleware(AsyncExitStackMiddleware(self.router), self.exception_handlers)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of all routes."""
        if self.openapi_schema is None:
            document = super().openapi()  # kept in self.openapi_schema
            described = {each.path: each.operations for each in self.routes if isinstance(each, DescribedRoute)}
            add_operations(document, described, [tag["name"] for tag in self.openapi_tags or ()])
            add_samples(document)
        assert self.openapi_schema is not None
        return self.openapi_schema

    async def openapi_json(self, request: Request) -> Response:
        """GET /openapi.json: the document, encoded once. It is made in a thread because that takes a second."""
        root = request.scope.get("root_path", "").rstrip("/")
        async with self._encoding:
            if root not in self._encoded:
                self._encoded[root] = await asyncio.to_thread(self._encode, root)
        return Response(self._encoded[root], media_type="application/json")

    def _encode(self, root: str) -> bytes:
        document = self.openapi()
        return to_json({**document, "servers": [{"url": root}]} if root else document)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the lifespan."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        info_of(scope).arrived_at = time.monotonic()
        scope["app"] = self
        response = await self._checked(scope, receive)
        if response is None:
            endpoint = self._endpoint(scope)
            if endpoint is None:
                await super().__call__(scope, receive, self._noting(scope, send))
                return
            response = await endpoint.response(scope, receive)
        # A response that sends itself as the base class does is complete.
        if WHOLE in scope.get("extensions", ()) and type(response).__call__ is Response.__call__:
            await self._send_whole(scope, response, send)
        else:
            await response(scope, receive, self._noting(scope, send))

    async def _checked(self, scope: Scope, receive: Receive) -> Response | None:
        """The response to a request that is not handled; None for one that is."""
        try:
            rejection = info_of(scope).rejection
            if rejection is not None:
                raise rejection
            return None if self.guard is None else self.guard.check(scope)
        except ServiceError as failure:
            return await error_response(Request(scope, receive), failure)

    def _added(self, scope: Scope) -> Headers:
        """Headers of every response."""
        own = SECURITY if self.guard is None else self.guard.headers(scope)
        return (*own, (HEADER, request_id(scope).encode()))

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        """The endpoint of the described route that matches path and method, its parameters put into ``scope``."""
        for each in self._described:
            match, found = each.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return each.endpoint_app
        return None

    async def _send_whole(self, scope: Scope, response: Response, send: Send) -> None:
        info, headers = info_of(scope), [*response.raw_headers, *self._added(scope)]
        info.status = response.status_code
        await send({"type": WHOLE, "status": response.status_code, "headers": headers, "body": response.body})
        if self.access_log is not None:
            self.access_log.note(info, scope["method"], route_path(scope))

    def _noting(self, scope: Scope, send: Send) -> Send:
        """``send`` that adds headers, and logs the request when all of the response is sent."""
        info = info_of(scope)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                info.status = message["status"]
                if info.status == HTTPStatus.TEMPORARY_REDIRECT:
                    message["headers"] = [_relative(*header) for header in message["headers"]]
                named = {name for name, _ in message["headers"]} - {b"vary"}
                added = [header for header in self._added(scope) if header[0] not in named]
                message["headers"] = [*message["headers"], *added]
            await send(message)
            if self.access_log is not None and message["type"] == "http.response.body" and not message.get("more_body"):
                self.access_log.note(info, scope["method"], route_path(scope))

        return noting


def _relative(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header of Starlette's redirect to a path without its last slash, without the host, which the sender chose."""
    return (name, value) if name != b"location" else (name, urlsplit(value)._replace(scheme=b"", netloc=b"").geturl())
