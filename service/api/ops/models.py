"""GET /models and /models/{name}: what is served, from the manifests."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request

from service.api.ops.parameters import tasks_of
from service.api.request.capabilities import Ability, abilities
from service.api.request.resolve import most_steps
from service.api.state import State, deployment_of, state_of
from service.contract.manifest import Capability, Manifest
from service.engine.deployment import Deployment
from service.history import Latency, counts_of, latency

router = APIRouter(tags=["models"])

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


@router.get("/models", response_model_exclude={"__all__": _UNTOLD})
async def list_models(request: Request) -> list[ModelCard]:
    """Every model that is served."""
    state = state_of(request)
    return [_card(deployment, state) for deployment in state.engine.deployments.values()]


@router.get(
    "/models/{name}",
    response_model_exclude=_UNTOLD,
    responses={404: {"description": "No such model."}, 503: {"description": "Refused."}},
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
        limits["steps"] = most_steps(model, settings)
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
