"""POST and GET /generate/{model}: pictures from seeds."""

import random
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from service.api.dialects.hugging_face import HuggingFaceRequest, read_generate
from service.api.http.endpoint import route
from service.api.order import Order
from service.api.request.body import parse_query
from service.api.request.layout import film_of, shown_params
from service.api.request.resolve import Resolved
from service.api.request.response_mode import Way, way_of
from service.api.request.schemas import GenerateRequest, Params
from service.api.response.caching import cacheable
from service.api.response.documented import image_operation
from service.api.response.respond import respond
from service.api.state import State, deployment_of, state_of
from service.api.tasks.starts import started
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
    manifest = deployment.model.manifest
    return await respond(
        request,
        state,
        *_ordered(request, state, deployment, await read_generate(request, state.settings, manifest, pictures=2)),
    )


async def get_generate(request: Request) -> Response:
    """The same with the fields in the query, for browsers: /generate/ddpm?seed=7&class_label=sneaker&scale=8.

    With a seed the answer has an ETag, and with the model's version too it may be kept for ever.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    order, way = _ordered(request, state, deployment, parse_query(GenerateRequest, request))
    return await respond(request, state, cacheable(order) if way.plain and _repeatable(order) else order, way)


ROUTE = route(
    "/generate/{model}",
    {
        "POST": image_operation(post_generate, body=[GenerateRequest, HuggingFaceRequest], example={"n": 4, "seed": 7}),
        "GET": image_operation(get_generate, query=GenerateRequest),
    },
)


def generate_order(state: State, body: GenerateRequest, deployment: Deployment, media: str) -> Order:
    """``body`` for ``deployment``, checked by its fields alone. Raises InvalidField, UnknownVersion."""
    model = deployment.model
    resolved = state.meanings.of(body, model, media)
    rows, params = _rows(body, resolved)
    order = Order(
        deployment=deployment,
        rows=rows,
        # Latents say how many pictures there are: so does n, once they are dropped.
        asked=body if body.latents is None else body.model_copy(update={"n": body.count}),
        media=media,
        path=f"/generate/{model.name}",
        params={**params, **resolved.params},
        seeds=[row.seed for row in rows],
    )
    order = started(order, body, state.settings)
    film = film_of(body, order.rows[0].plan.steps)
    return order._replace(
        rows=order.rows if film is None else [row._replace(film=film) for row in order.rows],
        params={**order.params, "scale": body.scale, **shown_params(body, film)},
    )


def _ordered(request: Request, state: State, deployment: Deployment, body: GenerateRequest) -> tuple[Order, Way]:
    """What to compute, and how to answer. A function, so that no handler holds ``body`` with its files as it waits."""
    way = way_of(request, body)
    return generate_order(state, body, deployment, way.media), way


def _repeatable(order: Order) -> bool:
    """Whether the request says which pictures it wants, so that the same request gives the same ones."""
    asked = order.asked
    assert isinstance(asked, GenerateRequest)
    return any(each is not None for each in (asked.seed, asked.seeds, asked.point))


def _rows(body: GenerateRequest, resolved: Resolved) -> tuple[Sequence[RowSpec], Params]:
    """The pictures, and the fields that say which they are."""
    # A point has one picture, whatever the seed: without one it may be kept as one with a seed may.
    drawn = 0 if body.point is not None else random.getrandbits(32)
    first = drawn if body.seed is None else body.seed
    seeds = body.seeds or [image_seed(first, index) for index in range(body.count)]
    which: Params = {"seeds": [*seeds]} if body.seeds else {"seed": first}
    return [resolved.row(seed, index) for index, seed in enumerate(seeds)], {"n": len(seeds), **which}
