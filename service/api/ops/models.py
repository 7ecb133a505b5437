"""GET /models and /models/{name}: the served models, from their manifests."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.endpoint import HeadRoute
from service.api.http.openapi import errors, response_headers
from service.api.ops.parameters import tasks_of
from service.api.request.capabilities import Ability, abilities
from service.api.request.negotiation import JSON
from service.api.request.prompt_text import MAX_PROMPT
from service.api.request.resolve import most_steps
from service.api.state import State, deployment_of, state_of
from service.contract.manifest import Capability, Manifest
from service.engine.deployment import Deployment
from service.history import Latency, counts_of, latency

router = APIRouter(tags=["models"], route_class=HeadRoute)

#: Left out of a card: the image of the service's own check is longer than everything else.
_HIDDEN = {"manifest": {"golden"}}


class ModelCard(BaseModel):
    """A model: its manifest, and what it supports."""

    name: str
    version: str
    family: str
    image_shape: tuple[int, int, int] = Field(description="(channel, height, width)")
    class_names: tuple[str, ...]
    capabilities: tuple[Capability, ...]
    does: tuple[Ability, ...] = Field(description="Everything that it can do.")
    limits: dict[str, int]
    examples: tuple[str, ...] = Field(description="A few prompts whose words it knows; empty where none are known.")
    tasks: dict[str, dict[str, Any]] = Field(
        description="The fields that it supports, by task (generate, interpolate, encode), as JSON schemas with its "
        "own bounds and defaults."
    )
    latency: dict[str, Latency] = Field(
        description="Since the service started, by stage: queue, compute, encode, and request, which is the whole."
    )
    manifest: Manifest


_CARDS = TypeAdapter(list[ModelCard])

_OK: dict[int | str, dict[str, Any]] = {200: {"headers": response_headers("X-Request-Id")}}


@router.get("/models", response_model=list[ModelCard], responses={**_OK, **errors(500)})
async def list_models(request: Request) -> Response:
    """List the served models."""
    state = state_of(request)
    return Response(await state.paced.get("models", lambda: _cards(state)), media_type=JSON)


def _cards(state: State) -> bytes:
    cards = [_card(deployment, state) for deployment in state.engine.deployments.values()]
    return _CARDS.dump_json(cards, exclude={"__all__": _HIDDEN})


@router.get(
    "/models/{name}",
    response_model_exclude=_HIDDEN,
    # FastAPI documents its own 422 for a parameter in the path unless a class of statuses is documented.
    responses={**_OK, **errors(404, 500, 503), "4XX": {"description": "An error of the request."}},
)
async def get_model(name: str, request: Request) -> ModelCard:
    """Describe one model."""
    state = state_of(request)
    return _card(deployment_of(request, state, name), state)


def _card(deployment: Deployment, state: State) -> ModelCard:
    model, settings = deployment.model, state.settings
    manifest, metrics = model.manifest, deployment.metrics
    limits = {"n": settings.max_images, "frames": settings.max_images}
    if manifest.denoises:
        limits["steps"] = most_steps(model, settings)
    if manifest.conditioning is not None and manifest.reads_prompts:
        limits |= {"prompt": MAX_PROMPT, "tokens": manifest.conditioning.words}
    return ModelCard(
        name=model.name,
        version=manifest.version,
        family=manifest.family,
        image_shape=manifest.image_shape,
        class_names=manifest.class_names,
        capabilities=manifest.capabilities,
        does=abilities(model),
        limits=limits,
        examples=model.examples,
        tasks=tasks_of(model, settings),
        latency={stage: latency(counts) for stage, counts in counts_of(metrics).seconds.items()},
        manifest=manifest,
    )
