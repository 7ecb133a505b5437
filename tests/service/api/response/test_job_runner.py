from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.api.order import Order
from service.api.request.resolve_cache import ResolvedCache
from service.api.request.schemas import GenerateRequest, InterpolateRequest
from service.api.response.job_runner import with_previews
from service.api.state import State
from service.api.tasks.generate import generate_order
from service.api.tasks.interpolate import interpolate_order
from service.engine.deployment import Deployment
from service.engine.rows import Film
from service.metrics import Metrics
from service.models.registry import load_registry
from service.settings import Settings
from tests.service.conftest import settings_of
from tests.service.engine.conftest import CPU, local_engine


@pytest.fixture
def settings(weights: Path) -> Settings:
    return settings_of(weights)


def order_of(settings: Settings, model: str, **fields: Any) -> Order:
    deployment, asked = deployment_of(settings, model), GenerateRequest.model_validate(fields)
    return generate_order(state_with(settings), asked, deployment, "image/png")


def deployment_of(settings: Settings, model: str) -> Deployment:
    engine, _ = local_engine(load_registry(settings, CPU), settings, Metrics())
    return engine.deployments[model]


def state_with(settings: Settings) -> State:
    """As much of a state as an order takes that uploads nothing."""
    return cast(State, SimpleNamespace(settings=settings, resolved=ResolvedCache(settings)))


@pytest.mark.parametrize(
    ("fields", "live", "film"),
    [
        ({"steps": 40}, False, None),
        ({"steps": 40}, True, Film(4, "x0")),
        ({"steps": 3}, True, Film(1, "x0")),
        ({"steps": 40, "preview_every": 0}, True, None),
        ({"steps": 40, "preview_every": 7}, False, Film(7, "x0")),
        ({"steps": 40, "preview_kind": "both"}, True, Film(4, "both")),
    ],
)
def test_every_picture_has_the_requested_previews(
    settings: Settings, fields: dict[str, Any], live: bool, film: Film | None
) -> None:
    order = order_of(settings, "ddpm", n=3, **fields)
    assert [row.film for row in with_previews(order, live=live).rows] == [film] * 3
    assert with_previews(order, live=live).seeds == order.seeds


def test_frames_of_a_path_are_filmed_too(settings: Settings) -> None:
    deployment = deployment_of(settings, "ddpm")
    asked = InterpolateRequest.model_validate({"model": "ddpm", "frames": 4, "steps": 20})
    order = interpolate_order(state_with(settings), asked, deployment, "image/png")
    assert {row.film for row in with_previews(order, live=True).rows} == {Film(2, "x0")}


def test_what_takes_no_steps_has_no_film(settings: Settings) -> None:
    order = order_of(settings, "vae")
    assert with_previews(order, live=True) is order
