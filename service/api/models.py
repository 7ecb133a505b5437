"""GET /models and /models/{name}: what is served, from the manifests."""

from fastapi import APIRouter
from starlette.requests import Request

from service.api.schemas import ModelCard
from service.api.state import State, deployment_of, state_of
from service.engine.model import Model

router = APIRouter(tags=["models"])

#: Of a card: a picture for the service's own check, longer than all the rest.
_UNTOLD = {"manifest": {"golden"}}


@router.get("/models", response_model_exclude={"__all__": _UNTOLD})
async def list_models(request: Request) -> list[ModelCard]:
    """Every model that is served."""
    state = state_of(request)
    return [_card(deployment.model, state) for deployment in state.engine.deployments.values()]


@router.get(
    "/models/{name}",
    response_model_exclude=_UNTOLD,
    responses={404: {"description": "No such model."}, 503: {"description": "Refused."}},
)
async def get_model(name: str, request: Request) -> ModelCard:
    """One model."""
    state = state_of(request)
    return _card(deployment_of(request, state, name).model, state)


def _card(model: Model, state: State) -> ModelCard:
    manifest, settings = model.manifest, state.settings
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
        limits=limits,
        manifest=manifest,
    )
