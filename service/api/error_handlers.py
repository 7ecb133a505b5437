"""The error tree as application/problem+json (RFC 9457): the only place that writes an error body."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from service.api.docs import PROBLEM_JSON
from service.api.state import state_of
from service.errors import ServiceError

log = logging.getLogger(__name__)

#: Nginx's number for a client that closed the connection: nobody reads it, but logs do.
CLIENT_CLOSED_REQUEST = 499


def install(app: FastAPI) -> None:
    """Answer every exception of ``app`` with a problem document."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def respond(request: Request, failure: Exception) -> Response:
    """The answer to a request that ended with ``failure``, for what handles requests outside of FastAPI."""
    handler = next(handler for kind, handler in _HANDLERS.items() if isinstance(failure, kind))
    return await handler(request, failure)


async def _service_error(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, ServiceError)
    _count(request, failure.code)
    errors = [
        {
            "pointer": problem.pointer,
            "message": problem.message,
            **({"allowed": problem.allowed} if problem.allowed else {}),
        }
        for problem in failure.problems
    ]
    headers = {} if failure.retry_after_s is None else {"Retry-After": str(failure.retry_after_s)}
    return _problem(failure.status, failure.code, failure.detail, errors, headers)


async def _http_exception(request: Request, failure: Exception) -> Response:  # noqa: ARG001
    assert isinstance(failure, HTTPException)
    phrase = HTTPStatus(failure.status_code).phrase
    code = phrase.lower().replace(" ", "-")
    return _problem(failure.status_code, code, failure.detail, [], dict(failure.headers or {}))


async def _client_gone(request: Request, failure: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _unexpected(request: Request, failure: Exception) -> Response:
    _count(request, ServiceError.code)
    log.error("unexpected error", exc_info=failure, extra={"path": request.url.path})
    return _problem(500, ServiceError.code, "The service failed; its log says why.", [], {})


def _count(request: Request, code: str) -> None:
    request.scope.setdefault("state", {})["outcome"] = code
    state_of(request).count_error(getattr(request.state, "model", None), code)


def _problem(status: int, code: str, detail: str, errors: list[dict[str, str]], headers: dict[str, str]) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": errors,
    }
    return JSONResponse(body, status_code=status, headers=headers, media_type=PROBLEM_JSON)


_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ServiceError: _service_error,
    HTTPException: _http_exception,
    ClientDisconnect: _client_gone,
    Exception: _unexpected,
}
