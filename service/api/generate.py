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
from service.api.rendering import Order
from service.api.resolve import Resolved
from service.api.respond import respond
from service.api.schemas import GenerateRequest, Params
from service.api.sheet import film_of, shown_params
from service.api.starts import begin
from service.api.state import State, deployment_of, state_of
from service.api.way import way_of
from service.engine.engine import Deployment
from service.engine.rows import RowSpec
from service.sampling.noise import image_seed


async def post_generate(request: Request) -> Response:
    """Make pictures. Without a body: one picture, from a seed that the answer's X-Seed tells.

    The field format, else Accept, chooses the form: image/png, image/webp or image/jpeg (one image, with all pictures
    where n > 1), image/gif (a frame each), application/json (each as base64 PNG with its seed), application/x-npy
    (uint8, (n, height, width, channel)) or application/zip (a PNG each, and params.json).

    text/event-stream, or the field stream, answers with events while pictures are made: queued, started, preview,
    image, then completed with the JSON answer, or error. `Prefer: respond-async` answers 202 at once, with the address
    of a job; `Prefer: wait=10` does so where the pictures are not ready in ten seconds.

    A body of the shape {"inputs", "parameters"} is Hugging Face's: a class as prompt, or a picture, and what to do.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    body = await read_generate(request, state.settings, deployment.model.manifest, pictures=2)
    way = way_of(request, body)
    return await respond(request, state, await generate_order(request, state, body, deployment, way.media), way)


async def get_generate(request: Request) -> Response:
    """The same with the fields in the query, for browsers: /generate/ddpm?seed=7&class_label=sneaker&scale=8.

    With a seed the answer has an ETag, and with the model's version too it may be kept for ever.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    body = parse_query(GenerateRequest, request)
    way = way_of(request, body)
    order = await generate_order(request, state, body, deployment, way.media)
    repeatable = any(each is not None for each in (body.seed, body.seeds, body.point))
    return await respond(request, state, cacheable(order) if repeatable and way.plain else order, way)


ROUTE = route("/generate/{model}", {"POST": post_generate, "GET": get_generate})

OPERATIONS = {
    "/generate/{model}": {
        "post": operation(post_generate, PICTURES, path=["model"], body=GenerateRequest),
        "get": operation(get_generate, PICTURES, path=["model"], query=GenerateRequest),
    }
}


async def generate_order(
    request: Request, state: State, body: GenerateRequest, deployment: Deployment, media: str
) -> Order:
    """``body`` for ``deployment``, ready to compute.

    Raises InvalidField, UnknownVersion; and as ``starts.begin``, for what is uploaded is read and encoded here.
    """
    model = deployment.model
    resolved = state.meanings.of(body, model, media)
    rows, params = _rows(body, resolved)
    begun = await begin(request, state, body, deployment, rows)
    film = film_of(body, begun.rows[0].plan.steps)
    return Order(
        deployment=deployment,
        rows=begun.rows if film is None else [row._replace(film=film) for row in begun.rows],
        asked=body,
        media=media,
        path=f"/generate/{model.name}",
        params={**params, **resolved.params, **begun.params, "scale": body.scale, **shown_params(body, film)},
        seeds=[row.seed for row in rows],
        warnings=begun.warnings,
    )


def _rows(body: GenerateRequest, resolved: Resolved) -> tuple[Sequence[RowSpec], Params]:
    """The pictures, and the fields that say which they are."""
    # A point has one picture, whatever the seed: without one it may be kept as one with a seed may.
    drawn = 0 if body.point is not None else random.getrandbits(32)
    first = drawn if body.seed is None else body.seed
    seeds = body.seeds or [image_seed(first, index) for index in range(body.count)]
    which: Params = {"seeds": [*seeds]} if body.seeds else {"seed": first}
    return [resolved.row(seed, index) for index, seed in enumerate(seeds)], {"n": len(seeds), **which}
