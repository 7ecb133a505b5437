"""POST and GET /generate/{model}: pictures from seeds."""

import secrets

from starlette.requests import Request
from starlette.responses import Response

from service.api.answers import Ask, answer
from service.api.body import parse_json, parse_query, read_body
from service.api.docs import operation
from service.api.endpoint import route
from service.api.negotiation import JSON, NPY, PNG, choose
from service.api.resolve import resolve
from service.api.schemas import GenerateRequest
from service.api.state import model_of, state_of
from service.engine.model import Model
from service.engine.rows import request_rows

FORMATS = (PNG, JSON, NPY)


async def post_generate(request: Request) -> Response:
    """Make pictures. Without a body: one picture, from a seed that the answer's X-Seed tells.

    Accept chooses the form: image/png (a grid when n > 1), application/json (each picture as base64 PNG with its seed),
    or application/x-npy (uint8, (n, height, width, channel)).
    """
    model = model_of(request, request.path_params["model"])
    body = await read_body(request, state_of(request).settings)
    return await _generate(request, model, parse_json(GenerateRequest, body))


async def get_generate(request: Request) -> Response:
    """The same with the fields in the query, for browsers: /generate/ddpm?seed=7&class_label=sneaker&scale=8."""
    model = model_of(request, request.path_params["model"])
    return await _generate(request, model, parse_query(GenerateRequest, request))


ROUTES = (route("/generate/{model}", {"POST": post_generate, "GET": get_generate}),)

OPERATIONS = {
    "/generate/{model}": {
        "post": operation(post_generate, FORMATS, path=["model"], body=GenerateRequest),
        "get": operation(get_generate, FORMATS, path=["model"], query=GenerateRequest),
    }
}


async def _generate(request: Request, model: Model, body: GenerateRequest) -> Response:
    state = state_of(request)
    media = choose(request.headers.getlist("accept"), FORMATS)
    resolved = resolve(body, model, state.settings)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    rows = request_rows(body.n, seed, resolved.label_of, resolved.guidance_scale, resolved.plan)
    ask = Ask(
        model=model,
        rows=rows,
        media=media,
        scale=body.scale,
        columns=body.columns,
        params={"n": body.n, "seed": seed, **resolved.params, "scale": body.scale},
        seeds=[row.seed for row in rows],
    )
    return await answer(request, state, ask)
