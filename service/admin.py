"""The operator's HTTP interface, which loads, reloads and unloads models: a separate application on a loopback port.

With API keys it needs one with the scope admin. Without them there is no authentication, so web pages in a browser on
the same machine must be kept out: browsers send Origin with every POST, and Host shows the name that a page used for
the loopback address.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.access.keys import KeyFile, KeysRefused
from service.api.http.access import authorize
from service.api.http.problem import PROBLEM_JSON
from service.change_errors import ChangeError, KeysUnusable, NotForPages, Starting
from service.errors import ServiceError
from service.models.manager import ChangeResult, ModelManager

LOOPBACK = ["127.0.0.1", "localhost"]

Handler = Callable[[Request], Awaitable[Response]]


def create_admin(
    manager: Callable[[], ModelManager | None], keys: Callable[[], KeyFile | None] = lambda: None
) -> Starlette:
    """The ASGI application that changes the models of ``manager()``, which is None while the service starts.

    ``keys()`` is the file of API keys, None without one.
    """
    routes = [
        Route("/models", _permitted(_list)),
        Route("/reload", _guarded(_reload_all), methods=["POST"]),
        Route("/models/{name}/load", _guarded(_load), methods=["POST"]),
        Route("/models/{name}/reload", _guarded(_reload), methods=["POST"]),
        Route("/models/{name}/unload", _guarded(_unload), methods=["POST"]),
        Route("/models/{name}/rollback", _guarded(_roll_back), methods=["POST"]),
    ]
    admin = Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK, www_redirect=False)],
        exception_handlers={ChangeError: _refuse, ServiceError: _not_permitted, HTTPException: _no_such_command},
    )
    admin.state.manager, admin.state.keys = manager, keys
    return admin


async def _list(request: Request) -> Response:
    return JSONResponse([asdict(standing) for standing in await _manager(request).statuses()])


async def _reload_all(request: Request) -> Response:
    """Each model's outcome, after that of the API keys if there are any; 207 when one of them failed."""
    results: list[ChangeResult | ChangeError] = []
    told: list[dict[str, Any]] = []
    if (key_file := request.app.state.keys()) is not None:
        try:
            told.append({"keys": key_file.reload(), "outcome": "read"})
        except KeysRefused as failure:
            results.append(KeysUnusable(f"The API keys stay as they are. {failure}"))
    results += await _manager(request).reload_all()
    told += [asdict(each) if isinstance(each, ChangeResult) else _problem(each) for each in results]
    failed = any(isinstance(each, ChangeError) for each in results)
    return JSONResponse(told, HTTPStatus.MULTI_STATUS if failed else HTTPStatus.OK)


async def _load(request: Request) -> Response:
    return JSONResponse(asdict(await _manager(request).load(request.path_params["name"])))


async def _reload(request: Request) -> Response:
    return JSONResponse(asdict(await _manager(request).reload(request.path_params["name"])))


async def _unload(request: Request) -> Response:
    return JSONResponse(asdict(await _manager(request).unload(request.path_params["name"])))


async def _roll_back(request: Request) -> Response:
    version = request.query_params.get("version")
    return JSONResponse(asdict(await _manager(request).roll_back(request.path_params["name"], version)))


def _guarded(handler: Handler) -> Handler:
    """``handler``, closed to web pages, and to requests that are not permitted."""
    permitted = _permitted(handler)

    async def guarded(request: Request) -> Response:
        if "origin" in request.headers:
            raise NotForPages("Commands are not taken from web pages.")
        return await permitted(request)

    return guarded


def _permitted(handler: Handler) -> Handler:
    """``handler``, for requests with an API key that has the scope admin, if there are keys."""

    async def permitted(request: Request) -> Response:
        key_file: KeyFile | None = request.app.state.keys()
        if key_file is not None:
            authorize(dict(request.scope["headers"]), key_file.ring, ("admin",))
        return await handler(request)

    return permitted


def _manager(request: Request) -> ModelManager:
    manager: ModelManager | None = request.app.state.manager()
    if manager is None:
        raise Starting("The service is starting.")
    return manager


async def _refuse(request: Request, failure: Exception) -> Response:  # noqa: ARG001
    assert isinstance(failure, ChangeError)
    return JSONResponse(_problem(failure), failure.status, media_type=PROBLEM_JSON)


async def _not_permitted(request: Request, failure: Exception) -> Response:  # noqa: ARG001
    assert isinstance(failure, ServiceError)
    headers = {} if failure.challenge is None else {"WWW-Authenticate": failure.challenge}
    return JSONResponse(_problem(failure), failure.status, headers, media_type=PROBLEM_JSON)


async def _no_such_command(request: Request, failure: Exception) -> Response:  # noqa: ARG001
    assert isinstance(failure, HTTPException)
    return JSONResponse({"detail": failure.detail}, failure.status_code, failure.headers, media_type=PROBLEM_JSON)


def _problem(failure: ChangeError | ServiceError) -> dict[str, str | int]:
    """RFC 9457."""
    title = HTTPStatus(failure.status).phrase
    told = {"type": "about:blank", "title": title, "detail": str(failure), "code": failure.code}
    return {"status": failure.status, **told}
