"""The error tree as application/problem+json (RFC 9457): the only place that writes an error body.

The body also serves clients of OpenAI and Hugging Face, which read ``error`` and ``errors``.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from service.api.http.problem import PROBLEM_JSON, Problem, problem_of
from service.api.http.request_id import request_id
from service.api.state import state_of
from service.errors import FieldProblem, ServiceError, UnknownModel
from service.request_info import info_of, route_path

log = logging.getLogger(__name__)

#: Nginx's status for a client that closed the connection: it appears in logs only.
CLIENT_CLOSED_REQUEST = 499


def install(app: FastAPI) -> None:
    """Turn every exception of ``app`` into a problem document."""
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def error_response(request: Request, failure: Exception) -> Response:
    """The response to a request that failed, for routes that are plain ASGI."""
    handler = next(handler for kind, handler in _HANDLERS.items() if isinstance(failure, kind))
    return await handler(request, failure)


async def _service_error(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, ServiceError)
    _count(request, failure.code)
    headers = {} if failure.retry_after_s is None else {"Retry-After": str(failure.retry_after_s)}
    if failure.challenge is not None:
        headers["WWW-Authenticate"] = failure.challenge
    return _answer(request, failure.status, failure.code, failure.detail, failure.problems, headers)


async def _http_exception(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, HTTPException)
    if failure.status_code == HTTPStatus.NOT_FOUND and _lacks_model(request):
        return await _service_error(request, UnknownModel("", state_of(request).engine.deployments))
    code = HTTPStatus(failure.status_code).phrase.lower().replace(" ", "-")
    return _answer(request, failure.status_code, code, failure.detail, (), dict(failure.headers or {}))


def _lacks_model(request: Request) -> bool:
    """Whether the path would be one of the service with the name of a model behind it."""
    whole = f"{route_path(request.scope).rstrip('/')}/{{model}}"
    return any(getattr(each, "path", None) == whole for each in request.app.routes)


async def _client_closed(request: Request, failure: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _unexpected(request: Request, failure: Exception) -> Response:
    _count(request, ServiceError.code)
    log.error(
        "unexpected error",
        exc_info=failure,
        extra={"path": request.url.path, "request_id": request_id(request.scope)},
    )
    return _answer(request, 500, ServiceError.code, "The service failed; its log says why.", (), {})


def _count(request: Request, code: str) -> None:
    info = info_of(request.scope)
    info.outcome = code
    if not info.counted:
        state_of(request).count_error(info.model, code)


def _answer(
    request: Request,
    status: int,
    code: str,
    detail: str,
    problems: Sequence[FieldProblem],
    headers: Mapping[str, str],
) -> Response:
    problem = problem_of(request_id(request.scope), status, code, detail, problems)
    path = f"{route_path(request.scope)}/"
    render = next((own for prefix, own in _DIALECTS.items() if path.startswith(prefix)), _problem)
    return render(problem, {**_about(request), **headers})


def _about(request: Request) -> dict[str, str]:
    """Headers of every error: it must not be cached, and it names the model if that is known."""
    fixed = {"Cache-Control": "no-store", "Vary": "Accept"}
    info = info_of(request.scope)
    if info.model is None or info.model_version is None:
        return fixed
    return {**fixed, "X-Model": info.model, "X-Model-Version": info.model_version}


def _problem(problem: Problem, headers: Mapping[str, str]) -> Response:
    """RFC 9457, with ``error`` for OpenAI's clients."""
    return Response(to_json(problem), problem.status, headers, PROBLEM_JSON)


def _open_inference(problem: Problem, headers: Mapping[str, str]) -> Response:
    """The Open Inference Protocol's: one text, nothing beside it."""
    return JSONResponse({"error": problem.detail}, status_code=problem.status, headers=headers)


#: How errors look to the clients that expect another form, by the beginning of the path.
_DIALECTS: Mapping[str, Callable[[Problem, Mapping[str, str]], Response]] = {"/v2/": _open_inference}

_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    ServiceError: _service_error,
    HTTPException: _http_exception,
    ClientDisconnect: _client_closed,
    Exception: _unexpected,
}
