"""POST and GET /generate/{model}: pictures from seeds."""

import random

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Order, answer
from service.api.body import parse_json, parse_query, read_body
from service.api.docs import operation
from service.api.endpoint import route
from service.api.negotiation import JSON, NPY, PNG, accept_of, choose
from service.api.resolve import resolve
from service.api.schemas import GenerateRequest
from service.api.state import State, deployment_of, state_of
from service.engine.engine import Deployment
from service.engine.rows import request_rows

FORMATS = (PNG, JSON, NPY)


async def post_generate(request: Request) -> Response:
    """Make pictures. Without a body: one picture, from a seed that the answer's X-Seed tells.

    Accept chooses the form: image/png (a grid when n > 1), application/json (each picture as base64 PNG with its seed),
    or application/x-npy (uint8, (n, height, width, channel)).
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    body = await read_body(request, state.settings)
    return await _generate(request, state, deployment, parse_json(GenerateRequest, body))


async def get_generate(request: Request) -> Response:
    """The same with the fields in the query, for browsers: /generate/ddpm?seed=7&class_label=sneaker&scale=8."""
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    return await _generate(request, state, deployment, parse_query(GenerateRequest, request))


ROUTE = route("/generate/{model}", {"POST": post_generate, "GET": get_generate})

OPERATIONS = {
    "/generate/{model}": {
        "post": operation(post_generate, FORMATS, path=["model"], body=GenerateRequest),
        "get": operation(get_generate, FORMATS, path=["model"], query=GenerateRequest),
    }
}


async def _generate(request: Request, state: State, deployment: Deployment, body: GenerateRequest) -> Response:
    media = choose(accept_of(request), FORMATS)
    resolved = resolve(body, deployment.model, state.settings)
    seed = random.getrandbits(32) if body.seed is None else body.seed
    rows = request_rows(body.n, seed, resolved.label_of, resolved.guidance_scale, resolved.plan)
    order = Order(
        deployment=deployment,
        rows=rows,
        timeout_ms=body.timeout_ms,
        media=media,
        scale=body.scale,
        columns=body.columns,
        params={"n": body.n, "seed": seed, **resolved.params, "scale": body.scale},
        seeds=[row.seed for row in rows],
    )
    return await answer(request, state, order)
