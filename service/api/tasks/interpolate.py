"""POST /interpolate: pictures along the path through the latents of seeds, of pictures that are sent, or given ones."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from service.api.http.endpoint import route
from service.api.order import Compute, Order, Walk, without
from service.api.request.body import read_request
from service.api.request.layout import check_form, film_of, shown_params
from service.api.request.resolve import resolve
from service.api.request.response_mode import Way, way_of
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
    told,
    uploads_of,
)
from service.engine.engine import Deployment
from service.engine.initial_latents import Leg, blended, legs, path_latents
from service.sampling.interpolate import InterpolationMethod, positions
from service.settings import Settings


async def post_interpolate(request: Request) -> Response:
    """Make the frames of a path between two pictures of one model, or through up to eight.

    The field format, else Accept, chooses the form: as of /generate, but one image is a strip, and image/gif plays.
    Without class_label, all frames are of the class of the first point. Models that denoise walk from the interpolated
    noise with a deterministic solver, and may be led from class to class.
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
    """``body`` for ``deployment``, checked by its fields alone. Raises InvalidField, UnknownVersion."""
    model = deployment.model
    resolved = resolve(body, model, state.settings)
    points = key_points(body, model, resolved)
    resolved = guided(body, model, resolved, points)
    steps = resolved.plan.steps
    check_form(body, media, model.manifest.image_shape, steps)
    path = _Path(points, positions(len(points), body.frames, body.easing, loop=body.loop), method_of(body, model))
    film = film_of(body, steps)
    row = resolved.row(points[0].seed or 0)._replace(film=film)
    params: Params = {
        "model": model.name,
        **told(body, points, [None] * len(points)),
        "frames": body.frames,
        "method": path.method,
    }
    return Order(
        deployment=deployment,
        rows=[blended(row, points[leg.before].label, points[leg.after].label, leg.share) for leg in path.legs],
        asked=without(body, bytes),
        media=media,
        path="/interpolate",
        params={**params, **_manner(body), **resolved.params, "scale": body.scale, **shown_params(body, film)},
        seeds=[points[leg.before].seed if leg.share == 0 else None for leg in path.legs],
        kind="interpolation",
        uploads=uploads_of(body),
        before=parts_before(model, points, steps),
        begin=partial(_begin, state.settings, path, steps),
    )


class _Path(NamedTuple):
    """The points that a path leads through, where on it its frames are, and how it goes between the points."""

    points: Sequence[KeyPoint]
    position: Tensor
    method: InterpolationMethod

    @property
    def legs(self) -> list[Leg]:
        """Where each frame is between two points."""
        return legs(self.position, len(self.points))


async def _begin(settings: Settings, path: _Path, steps: int, order: Order, compute: Compute) -> Order:
    """Frames that begin from the latents of the path."""
    assert isinstance(order.asked, InterpolateRequest)
    ends = await ends_of(settings, path.points, steps, order, compute)
    latents = path_latents(ends.latents, path.position, path.method)
    sent = [ends.sent[leg.before] if leg.share == 0 else None for leg in path.legs]
    return order._replace(
        rows=[row._replace(latent=latent) for row, latent in zip(order.rows, latents, strict=True)],
        params=order.params | told(order.asked, path.points, ends.sent),
        warnings=ends.warnings,
        walk=Walk([leg.before + leg.share for leg in path.legs], [float(latent.norm()) for latent in latents], sent),
    )


def _ordered(request: Request, state: State, body: InterpolateRequest) -> tuple[Order, Way]:
    """What to compute, and how to answer. A function, so that no handler holds ``body`` with its files as it waits."""
    deployment = deployment_of(request, state, body.model)
    way = way_of(request, body)
    return interpolate_order(state, body, deployment, way.media), way


def _manner(body: InterpolateRequest) -> Params:
    """How the path is walked, where it is not the usual way."""
    easing: Params = {} if body.easing == "linear" else {"easing": body.easing}
    return easing | ({"loop": True} if body.loop else {})
