"""POST and GET /generate/{model}: pictures from seeds."""

import random
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from service.api.body import parse_query
from service.api.caching import cacheable
from service.api.dialects.hugging_face import read_generate
from service.api.docs import operation
from service.api.endpoint import route
from service.api.negotiation import PICTURES
from service.api.rendering import Order, check_form
from service.api.resolve import Resolved, resolve
from service.api.respond import respond
from service.api.schemas import GenerateRequest, Params
from service.api.state import model_of, state_of
from service.api.way import way_of
from service.engine.model import Model
from service.engine.rows import RowSpec, request_rows
from service.sampling.noise import image_seed
from service.settings import Settings


async def post_generate(request: Request) -> Response:
    """Make pictures. Without a body: one picture, from a seed that the answer's X-Seed tells.

    The field format, else Accept, chooses the form: image/png, image/webp or image/jpeg (one image, with all pictures
    where n > 1), image/gif (a frame each), application/json (each as base64 PNG with its seed), application/x-npy
    (uint8, (n, height, width, channel)) or application/zip (a PNG each, and params.json).

    text/event-stream, or the field stream, answers with events while pictures are made: queued, started, preview,
    image, then completed with the JSON answer, or error. `Prefer: respond-async` answers 202 at once, with the address
    of a job; `Prefer: wait=10` does so where the pictures are not ready in ten seconds.
    """
    state = state_of(request)
    model = model_of(request, state, request.path_params["model"])
    body = await read_generate(request, state.settings, model.manifest, pictures=0)
    way = way_of(request, body)
    return await respond(request, state, generate_order(body, model, way.media, state.settings), way)


async def get_generate(request: Request) -> Response:
    """The same with the fields in the query, for browsers: /generate/ddpm?seed=7&class_label=sneaker&scale=8.

    With a seed the answer has an ETag, and with the model's version too it may be kept for ever.
    """
    state = state_of(request)
    model = model_of(request, state, request.path_params["model"])
    body = parse_query(GenerateRequest, request)
    way = way_of(request, body)
    order = generate_order(body, model, way.media, state.settings)
    repeatable = body.seed is not None or body.seeds is not None
    return await respond(request, state, cacheable(order) if repeatable and way.plain else order, way)


ROUTE = route("/generate/{model}", {"POST": post_generate, "GET": get_generate})

OPERATIONS = {
    "/generate/{model}": {
        "post": operation(post_generate, PICTURES, path=["model"], body=GenerateRequest),
        "get": operation(get_generate, PICTURES, path=["model"], query=GenerateRequest),
    }
}


def generate_order(body: GenerateRequest, model: Model, media: str, settings: Settings) -> Order:
    """``body`` of ``model``, ready to compute. Raises InvalidField, UnknownVersion."""
    resolved = resolve(body, model, settings)
    check_form(body, media, model.manifest.image_shape)
    rows, params = _rows(body, resolved)
    params |= {**resolved.params, "scale": body.scale}
    if body.layout != "auto":
        params["layout"] = body.layout
    return Order(
        model=model,
        rows=rows,
        asked=body,
        media=media,
        path=f"/generate/{model.name}",
        params=params,
        seeds=[row.seed for row in rows],
    )


def _rows(body: GenerateRequest, resolved: Resolved) -> tuple[Sequence[RowSpec], Params]:
    """The pictures, and the fields that say which they are."""
    if body.seeds is None and not isinstance(body.class_label, list):
        seed = random.getrandbits(32) if body.seed is None else body.seed
        return (
            request_rows(body.n, seed, resolved.label_of, resolved.guidance_scale, resolved.plan),
            {"n": body.n, "seed": seed},
        )
    first = random.getrandbits(32) if body.seed is None else body.seed
    seeds = body.seeds or [image_seed(first, index) for index in range(body.n)]
    rows = [
        RowSpec(seed, resolved.label_of(seed, index), resolved.guidance_scale, resolved.plan)
        for index, seed in enumerate(seeds)
    ]
    which: Params = {"seeds": [*seeds]} if body.seeds else {"seed": first}
    return rows, {"n": len(rows), **which}
