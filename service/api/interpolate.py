"""POST /interpolate: pictures along the path between the starting noises of two seeds."""

import random

from starlette.requests import Request
from starlette.responses import Response

from service.api.body import read_request
from service.api.docs import operation
from service.api.endpoint import route
from service.api.negotiation import PICTURES
from service.api.rendering import Order, check_form
from service.api.resolve import resolve
from service.api.respond import respond
from service.api.schemas import End, InterpolateRequest, Params
from service.api.state import deployment_of, state_of
from service.api.way import way_of
from service.engine.engine import Deployment
from service.engine.rows import interpolation_rows
from service.sampling.interpolate import InterpolationMethod
from service.settings import Settings


async def post_interpolate(request: Request) -> Response:
    """Make the frames between two pictures of one model.

    The field format, else Accept, chooses the form: as of /generate, but one image is a strip, and image/gif plays.
    Without class_label, all frames are of the class of the first seed. Models that denoise walk from the interpolated
    noise with a deterministic solver.
    """
    state = state_of(request)
    body = await read_request(request, state.settings, InterpolateRequest)
    deployment = deployment_of(request, state, body.model)
    way = way_of(request, body)
    return await respond(request, state, interpolate_order(body, deployment, way.media, state.settings), way)


ROUTE = route("/interpolate", {"POST": post_interpolate})

OPERATIONS = {"/interpolate": {"post": operation(post_interpolate, PICTURES, body=InterpolateRequest)}}


def interpolate_order(body: InterpolateRequest, deployment: Deployment, media: str, settings: Settings) -> Order:
    """``body`` for ``deployment``, ready to compute. Raises InvalidField, UnknownVersion."""
    model = deployment.model
    resolved = resolve(body, model, settings)
    check_form(body, media, model.manifest.image_shape)
    start, end = _seed(body.start), _seed(body.end)
    # Both ends are draws of a Gaussian: the straight line between them leaves the shell that such draws lie on.
    method: InterpolationMethod = "slerp" if body.method == "auto" else body.method
    rows = interpolation_rows(
        model,
        (start, end),
        body.frames,
        method,
        resolved.label_of(start),
        resolved.guidance_scale,
        resolved.plan,
    )
    params: Params = {
        "model": model.name,
        "from": {"seed": start},
        "to": {"seed": end},
        "frames": body.frames,
        "method": method,
        **resolved.params,
        "scale": body.scale,
    }
    if body.layout != "auto":
        params["layout"] = body.layout
    return Order(
        deployment=deployment,
        rows=rows,
        asked=body,
        media=media,
        path="/interpolate",
        params=params,
        seeds=[start, *[None] * (body.frames - 2), end],
    )


def _seed(end: End) -> int:
    return random.getrandbits(32) if end.seed is None else end.seed
