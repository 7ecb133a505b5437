"""Liveness, readiness, metrics: read-only."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.http.endpoint import HeadRoute
from service.api.http.openapi import errors, response_headers
from service.api.state import State, state_of
from service.request_info import info_of

router = APIRouter(tags=["operations"], route_class=HeadRoute)

# The media type of Prometheus' text format.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


_HEADERS = response_headers("X-Request-Id")


def _responses(unhealthy: str | None = None, media: str = "application/json") -> dict[int | str, dict[str, Any]]:
    schema = {"type": "object" if media == "application/json" else "string"}
    healthy: dict[int | str, dict[str, Any]] = {200: {"headers": _HEADERS, "content": {media: {"schema": schema}}}}
    failing: dict[int | str, dict[str, Any]] = {503: {**healthy[200], "description": unhealthy}} if unhealthy else {}
    return {**healthy, **failing, **errors(500)}


@router.get(
    "/health/live",
    response_class=JSONResponse,
    responses=_responses("A thread of the engine ended: only a restart helps."),
)
async def live(request: Request) -> JSONResponse:
    """200 while the process answers and can compute, or waits for an engine; 503: only a restart helps."""
    alive = state_of(request).engine.is_alive()
    return JSONResponse({"status": "live" if alive else "dead"}, status_code=200 if alive else 503)


@router.get(
    "/health/ready",
    response_class=JSONResponse,
    responses=_responses("A model cannot be served, or an engine does not run."),
)
async def ready(request: Request) -> JSONResponse:
    """200 when every model is verified and warmed and every engine runs; else 503, with the reasons.

    The status "degraded" is a 200 too: images are made, and something beside that fails, such as the job store.
    """
    state = state_of(request)
    return JSONResponse(_readiness(request, state), status_code=200 if state.ready else 503)


@router.get("/health", response_class=JSONResponse, responses=_responses())
async def health(request: Request) -> JSONResponse:
    """200 while the process answers, with the details of the other two; for people, and for probes that use HEAD."""
    state = state_of(request)
    return JSONResponse({"live": state.engine.is_alive(), **_readiness(request, state)})


@router.get("/metrics", response_class=Response, responses=_responses(media="text/plain"))
async def metrics(request: Request) -> Response:
    """Every series, in Prometheus' text format."""
    state = state_of(request)
    return Response(await state.paced.get("metrics", state.metrics.expose), media_type=METRICS_TYPE)


def _readiness(request: Request, state: State) -> dict[str, object]:
    """The status; its details only for requests with a key, where there are keys."""
    degraded = bool(state.background.failing)
    status = {"status": ("degraded" if degraded else "ready") if state.ready else "not ready"}
    if state.keys.required and info_of(request.scope).caller is None:
        return {**status}
    return {
        **status,
        "models": {name: each.model.manifest.version for name, each in state.engine.deployments.items()},
        "refused": state.models.refused,
        "faults": state.faults,
    }
