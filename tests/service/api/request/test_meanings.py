from collections.abc import Mapping
from typing import Any
from weakref import ref

import pytest
import torch

from service.api.request.negotiation import GIF, PNG
from service.api.request.resolve import resolve
from service.api.request.resolve_cache import MOST_KEPT, ResolvedCache
from service.api.request.schemas import GenerateRequest
from service.engine.model import Model
from service.errors import InvalidField, UnknownVersion
from service.models.torchscript import load_model
from service.settings import Settings


@pytest.fixture
def model(settings: Settings) -> Model:
    return load_model(settings.weights_dir / "ddpm", torch.device("cpu"))


@pytest.fixture
def cache(settings: Settings) -> ResolvedCache:
    return ResolvedCache(settings)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"class_label": "bag"},
        {"class_label": "none", "steps": 7},
        {"class_label": [0, 2], "n": 2},
        {"class_label": 1, "guidance_scale": 2.0, "negative_class": 0},
        {"solver": "ddim", "eta": 0.5, "layout": "film"},
        {"seeds": [1, 2]},
    ],
)
def test_a_cached_request_equals_a_resolved_one(
    cache: ResolvedCache, model: Model, settings: Settings, fields: Mapping[str, Any]
) -> None:
    own: dict[str, Any] = {} if "seeds" in fields else {"seed": 5}
    for request in (GenerateRequest(**fields), GenerateRequest(**fields, **own), GenerateRequest(**fields)):
        assert cache.of(request, model, PNG) == resolve(request, model, PNG, settings)


def test_requests_that_differ_only_in_seed_and_timeout_share_an_entry(cache: ResolvedCache, model: Model) -> None:
    first = cache.of(GenerateRequest(seed=1, n=2), model, PNG)
    assert cache.of(GenerateRequest(seed=2, n=2, timeout_ms=5000), model, PNG) is first
    assert cache.of(GenerateRequest(n=2), model, PNG) is first
    assert cache.of(GenerateRequest(n=3), model, PNG) is not first


@pytest.mark.parametrize("fields", [{"class_label": 9}, {"steps": 5000}, {"fps": 10}, {"version": "00000000"}])
def test_an_invalid_request_is_never_cached(cache: ResolvedCache, model: Model, fields: Mapping[str, Any]) -> None:
    cache.of(GenerateRequest(seed=1), model, PNG)
    for seed in (1, 2):
        with pytest.raises((InvalidField, UnknownVersion)):
            cache.of(GenerateRequest(seed=seed, **fields), model, PNG)


def test_entries_differ_by_media_type(cache: ResolvedCache, model: Model) -> None:
    cache.of(GenerateRequest(fps=10), model, GIF)
    with pytest.raises(InvalidField, match="fps"):
        cache.of(GenerateRequest(fps=10), model, PNG)


def test_entries_differ_by_model(cache: ResolvedCache, model: Model, settings: Settings) -> None:
    other = load_model(settings.weights_dir / "vae", torch.device("cpu"))
    assert cache.of(GenerateRequest(), model, PNG).plan.steps > 0
    assert cache.of(GenerateRequest(), other, PNG).plan.steps == 0


def test_the_cache_does_not_keep_a_model_alive(cache: ResolvedCache, settings: Settings) -> None:
    model = load_model(settings.weights_dir / "vae", torch.device("cpu"))
    cache.of(GenerateRequest(), model, PNG)
    gone = ref(model)
    del model
    assert gone() is None


def test_the_cache_is_emptied_when_full(cache: ResolvedCache, model: Model) -> None:
    first = cache.of(GenerateRequest(steps=1), model, PNG)
    for steps in range(2, MOST_KEPT + 1):
        cache.of(GenerateRequest(steps=steps), model, PNG)
    assert cache.of(GenerateRequest(steps=1), model, PNG) is first
    cache.of(GenerateRequest(steps=MOST_KEPT + 1), model, PNG)
    assert cache.of(GenerateRequest(steps=1), model, PNG) is not first
