"""The orders of stored jobs, by task: what ``job_runner.resume_jobs`` computes again."""

from collections.abc import Mapping
from typing import Any

from service.api.order import Order
from service.api.request.schemas import GenerateRequest, InterpolateRequest
from service.api.response.job_runner import Rebuild
from service.api.response.recipe import Recipe
from service.api.state import State
from service.api.tasks.encode import EncodeRequest, encode_order
from service.api.tasks.generate import generate_order
from service.api.tasks.interpolate import interpolate_order
from service.engine.deployment import Deployment


def _generate(state: State, recipe: Recipe, deployment: Deployment) -> Order:
    return generate_order(state, recipe.read(GenerateRequest, **recipe.files), deployment, recipe.media)


def _interpolate(state: State, recipe: Recipe, deployment: Deployment) -> Order:
    fields: dict[str, Any] = {}
    for place, file in recipe.files.items():  # from/image, to/image, or points/0/image
        name, *index, _ = place.split("/")
        points = fields.setdefault(name, recipe.fields[name])
        (points[int(index[0])] if index else points)["image"] = file
    return interpolate_order(state, recipe.read(InterpolateRequest, **fields), deployment, recipe.media)


def _encode(state: State, recipe: Recipe, deployment: Deployment) -> Order:
    files = [*recipe.files.values()]
    image = files if "image/0" in recipe.files else files[0]
    return encode_order(state, recipe.read(EncodeRequest, image=image), deployment, recipe.media)


BUILDERS: Mapping[str, Rebuild] = {"generate": _generate, "interpolate": _interpolate, "encode": _encode}
