"""GET /models and /models/{name}: what is served, from the manifests."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from service.api.http.endpoint import HeadRoute
from service.api.http.openapi import errors, response_headers
from service.api.ops.parameters import tasks_of
from service.api.request.capabilities import Ability, abilities
from service.api.state import State, deployment_of, state_of
from service.contract.manifest import Capability, Manifest
from service.engine.engine import Deployment
from service.history import Latency, counts_of, latency

router = APIRouter(tags=["models"], route_class=HeadRoute)

#: Of a card: a picture for the service's own check, longer than all the rest.
_UNTOLD = {"manifest": {"golden"}}


class ModelCard(BaseModel):
    """What the manifest says of a model, without the file it is in."""

    name: str
    version: str
    family: str
    image_shape: tuple[int, int, int] = Field(description="(channel, height, width)")
    class_names: tuple[str, ...]
    capabilities: tuple[Capability, ...]
    does: tuple[Ability, ...] = Field(description="All that it can do.")
    limits: dict[str, int]
    tasks: dict[str, dict[str, Any]] = Field(
        description="The fields that mean something to it, as JSON schemas with its own bounds and defaults: those of "
        "/generate, /interpolate and /encode, where it has them."
    )
    latency: dict[str, Latency] = Field(
        description="Since the service started, by stage: queue, compute, encode, and request, which is all."
    )
    manifest: Manifest


_OK: dict[int | str, dict[str, Any]] = {200: {"headers": response_headers("X-Request-Id")}}


@router.get("/models", response_model_exclude={"__all__": _UNTOLD}, responses={**_OK, **errors(500)})
async def list_models(request: Request) -> list[ModelCard]:
    """Every model that is served."""
    state = state_of(request)
    return [_card(deployment, state) for deployment in state.engine.deployments.values()]


@router.get(
    "/models/{name}",
    response_model_exclude=_UNTOLD,
    # FastAPI documents its own 422 for a parameter in the path unless a class of statuses is documented.
    responses={**_OK, **errors(404, 500, 503), "4XX": {"description": "An error of the request."}},
)
async def get_model(name: str, request: Request) -> ModelCard:
    """One model."""
    state = state_of(request)
    return _card(deployment_of(request, state, name), state)


def _card(deployment: Deployment, state: State) -> ModelCard:
    model, settings = deployment.model, state.settings
    manifest, metrics = model.manifest, deployment.metrics
    limits = {"n": settings.max_images, "frames": settings.max_images}
    if manifest.denoises:
        limits["steps"] = min(model.max_steps, settings.max_steps)
    return ModelCard(
        name=model.name,
        version=manifest.version,
        family=manifest.family,
        image_shape=manifest.image_shape,
        class_names=manifest.class_names,
        capabilities=manifest.capabilities,
        does=abilities(model),
        limits=limits,
        tasks=tasks_of(model, settings),
        latency={stage: latency(counts) for stage, counts in counts_of(metrics).seconds.items()},
        manifest=manifest,
    )
