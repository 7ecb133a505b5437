"""POST /interpolate: frames between points in latent space: seeds, uploaded pictures, or latents."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from service.api.http.endpoint import route
from service.api.order import Compute, Order, Walk, without
from service.api.request.body import read_request
from service.api.request.capabilities import reads_prompts
from service.api.request.resolve import resolve
from service.api.request.response_mode import ResponseMode, response_mode_of
from service.api.request.schemas import InterpolateRequest, Params
from service.api.response.documented import image_operation
from service.api.response.respond import respond
from service.api.state import State, deployment_of, state_of
from service.api.tasks.path_points import (
    KeyPoint,
    ends_of,
    guided,
    key_points,
    method_of,
    parts_before,
    point_params,
    uploads_of,
)
from service.api.tasks.prompted_path import with_prompts
from service.engine.deployment import Deployment
from service.engine.initial_latents import Leg, blended, legs, path_latents
from service.sampling.interpolate import InterpolationMethod, positions
from service.settings import Settings


async def post_interpolate(request: Request) -> Response:
    """Generate the frames of an interpolation between two points of one model, or through up to eight.

    `format`, else Accept, selects the format as in /generate; a single image is a strip, and image/gif an animation.
    Without `class_label` all frames have the class of the first point. Models that denoise start from interpolated
    noise, use a deterministic solver, and can change from class to class, or from prompt to prompt.
    """
    state = state_of(request)
    return await respond(
        request,
        state,
        *_ordered(request, state, await read_request(request, state.settings, InterpolateRequest, pictures=2)),
    )


ROUTE = route(
    "/interpolate",
    {
        "POST": image_operation(
            post_interpolate,
            body=[InterpolateRequest],
            example={"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "frames": 8},
        )
    },
)


def interpolate_order(state: State, body: InterpolateRequest, deployment: Deployment, media: str) -> Order:
    """``body`` for ``deployment``, its fields checked. Raises InvalidField, UnknownVersion."""
    model = deployment.model
    resolved = resolve(body, model, media, state.settings)
    points = key_points(body, model, resolved)
    resolved = guided(body, model, resolved, points)
    steps = resolved.plan.steps
    path = _Path(points, positions(len(points), body.frames, body.easing, loop=body.loop), method_of(body, model))
    row = resolved.row(points[0].seed or 0)
    params: Params = {
        "model": model.name,
        **point_params(body, points, [None] * len(points)),
        "frames": body.frames,
        "method": path.method,
    }
    order = Order(
        deployment=deployment,
        rows=[blended(row, points[leg.before].label, points[leg.after].label, leg.share) for leg in path.legs],
        asked=without(body, bytes),
        media=media,
        path="/interpolate",
        params={**params, **_path_params(body), **resolved.params},
        seeds=[points[leg.before].seed if leg.share == 0 else None for leg in path.legs],
        layout=resolved.layout,
        kind="interpolation",
        uploads=uploads_of(body),
        before=parts_before(model, points, steps),
        begin=partial(_begin, state.settings, path, steps),
    )
    return with_prompts(order, body, path.legs, points, state) if reads_prompts(model) else order


class _Path(NamedTuple):
    """The points of a path, the positions of its frames, and the method between the points."""

    points: Sequence[KeyPoint]
    position: Tensor
    method: InterpolationMethod

    @property
    def legs(self) -> list[Leg]:
        """The position of each frame between two points."""
        return legs(self.position, len(self.points))


async def _begin(settings: Settings, path: _Path, steps: int, order: Order, compute: Compute) -> Order:
    """Frames that begin from latents on the path."""
    assert isinstance(order.asked, InterpolateRequest)
    ends = await ends_of(settings, path.points, steps, order, compute)
    latents = path_latents(ends.latents, path.position, path.method)
    sent = [ends.sent[leg.before] if leg.share == 0 else None for leg in path.legs]
    return order._replace(
        rows=[
            row._replace(latent=row.plan.start_from_noise(latent))
            for row, latent in zip(order.rows, latents, strict=True)
        ],
        params=order.params | point_params(order.asked, path.points, ends.sent),
        warnings=ends.warnings,
        walk=Walk([leg.before + leg.share for leg in path.legs], [float(latent.norm()) for latent in latents], sent),
    )


def _ordered(request: Request, state: State, body: InterpolateRequest) -> tuple[Order, ResponseMode]:
    """The order, and how to answer. A function of its own, so that no waiting handler holds ``body`` with its files."""
    deployment = deployment_of(request, state, body.model)
    mode = response_mode_of(request, body)
    return interpolate_order(state, body, deployment, mode.media), mode


def _path_params(body: InterpolateRequest) -> Params:
    """The fields easing and loop where they are not the defaults."""
    easing: Params = {} if body.easing == "linear" else {"easing": body.easing}
    return easing | ({"loop": True} if body.loop else {})
