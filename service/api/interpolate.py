"""POST /interpolate: pictures along the path between the starting noises of two seeds."""

import random

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Order, answer
from service.api.body import parse_json, read_body
from service.api.docs import operation
from service.api.endpoint import route
from service.api.negotiation import GIF, JSON, NPY, PNG, accept_of, choose
from service.api.resolve import resolve
from service.api.schemas import End, InterpolateRequest
from service.api.state import deployment_of, state_of
from service.engine.rows import interpolation_rows
from service.sampling.interpolate import InterpolationMethod

FORMATS = (PNG, GIF, JSON, NPY)


async def post_interpolate(request: Request) -> Response:
    """Make the frames between two pictures of one model.

    Accept chooses the form: image/png (a strip), image/gif (an animation), application/json, or application/x-npy.
    Without class_label, all frames are of the class of the first seed. Models that denoise walk from the interpolated
    noise with a deterministic solver.
    """
    state = state_of(request)
    body = parse_json(InterpolateRequest, await read_body(request, state.settings))
    deployment = deployment_of(request, state, body.model)
    model = deployment.model
    media = choose(accept_of(request), FORMATS)
    resolved = resolve(body, model, state.settings)
    ends = _seed(body.start), _seed(body.end)
    # Both ends are draws of a Gaussian: the straight line between them leaves the shell that such draws lie on.
    method: InterpolationMethod = "slerp" if body.method == "auto" else body.method
    order = Order(
        deployment=deployment,
        rows=interpolation_rows(
            model, ends, body.frames, method, resolved.label_of(ends[0]), resolved.guidance_scale, resolved.plan
        ),
        timeout_ms=body.timeout_ms,
        media=media,
        scale=body.scale,
        columns=body.columns,
        params={
            "from_seed": ends[0],
            "to_seed": ends[1],
            "frames": body.frames,
            "method": method,
            **resolved.params,
            "scale": body.scale,
        },
        seeds=[ends[0], *[None] * (body.frames - 2), ends[1]],
    )
    return await answer(request, state, order)


ROUTE = route("/interpolate", {"POST": post_interpolate})

OPERATIONS = {"/interpolate": {"post": operation(post_interpolate, FORMATS, body=InterpolateRequest)}}


def _seed(end: End) -> int:
    return random.getrandbits(32) if end.seed is None else end.seed
