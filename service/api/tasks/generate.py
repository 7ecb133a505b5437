"""POST and GET /generate/{model}: pictures from seeds."""

import random
from collections.abc import Sequence

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.http.endpoint import route
from service.api.order import Order
from service.api.request.body import off_loop, parse_body, parse_query, read_body
from service.api.request.capabilities import reads_prompts
from service.api.request.resolve import Resolved
from service.api.request.response_mode import ResponseMode, response_mode_of
from service.api.request.schemas import GenerateRequest, Params
from service.api.response.caching import cacheable
from service.api.response.documented import image_operation
from service.api.response.respond import respond
from service.api.state import State, deployment_of, state_of
from service.api.tasks.prompted import prompted
from service.api.tasks.starts import started
from service.engine.deployment import Deployment
from service.engine.rows import RowSpec
from service.sampling.noise import image_seed


async def post_generate(request: Request) -> Response:
    """Generate pictures. Without a body: one picture, with a random seed that X-Seed reports.

    `format`, else Accept, selects the format: image/png, image/webp or image/jpeg (one image with all pictures),
    image/gif (one frame per picture), application/json (each picture as base64 PNG with its seed), application/x-npy
    (uint8, (n, height, width, channel)) or application/zip (one PNG per picture, and params.json).

    text/event-stream, or `stream`, answers with events while pictures are computed: queued, started, preview, image,
    then completed with the JSON answer, or error. `Prefer: respond-async` answers 202 at once, with the URL of a job;
    `Prefer: wait=10` does so if the pictures are not ready within ten seconds.

    A body {"inputs", "parameters"} is read as Hugging Face's: inputs are a class or a picture.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    return await respond(request, state, *_ordered(request, state, deployment, await _read(request, state, deployment)))


async def get_generate(request: Request) -> Response:
    """The same with the fields in the query: /generate/ddpm?seed=7&class_label=sneaker&scale=8.

    With a seed the answer has an ETag; with the model's version too it may be cached for ever.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    order, mode = _ordered(request, state, deployment, parse_query(GenerateRequest, request))
    return await respond(request, state, cacheable(order) if mode.plain and _repeatable(order) else order, mode)


def generate_route(*translated: type[BaseModel]) -> Route:
    """The route of both, which documents the native body and those that ``State.translators`` read."""
    post = image_operation(post_generate, body=[GenerateRequest, *translated], example={"n": 4, "seed": 7})
    return route("/generate/{model}", {"POST": post, "GET": image_operation(get_generate, query=GenerateRequest)})


def generate_order(state: State, body: GenerateRequest, deployment: Deployment, media: str) -> Order:
    """``body`` for ``deployment``, its fields checked. Raises InvalidField, UnknownVersion."""
    model = deployment.model
    resolved = state.resolved.of(body, model, media)
    rows, params = _rows(body, resolved)
    order = Order(
        deployment=deployment,
        rows=rows,
        # Lists and latents set the number of pictures; n keeps it once they are dropped.
        asked=body if body.n == body.count else body.model_copy(update={"n": body.count}),
        media=media,
        path=f"/generate/{model.name}",
        params={**params, **resolved.params},
        seeds=[row.seed for row in rows],
        layout=resolved.layout,
    )
    if reads_prompts(model):
        return prompted(order, body, state)
    return started(order, body, state.settings)


async def _read(request: Request, state: State, deployment: Deployment) -> GenerateRequest:
    """The request in the body, in the native format or one that a translator reads. Raises as ``read_request``."""
    body = await read_body(request, state.settings, pictures=3)
    return await off_loop(state.settings, body, _parse, request, state, deployment, body)


def _parse(request: Request, state: State, deployment: Deployment, body: bytes) -> GenerateRequest:
    for translate in state.translators:
        translated = translate(request, state.settings, deployment.model.manifest, body)
        if translated is not None:
            return translated
    return parse_body(GenerateRequest, request, state.settings, body)


def _ordered(
    request: Request, state: State, deployment: Deployment, body: GenerateRequest
) -> tuple[Order, ResponseMode]:
    """The order, and how to answer. A function of its own, so that no waiting handler holds ``body`` with its files."""
    mode = response_mode_of(request, body)
    return generate_order(state, body, deployment, mode.media), mode


def _repeatable(order: Order) -> bool:
    """Whether the request fixes its pictures, so that sent again it gives the same ones."""
    asked = order.asked
    assert isinstance(asked, GenerateRequest)
    return any(each is not None for each in (asked.seed, asked.seeds, asked.point))


def _rows(body: GenerateRequest, resolved: Resolved) -> tuple[Sequence[RowSpec], Params]:
    """A row for each picture, and the fields that reproduce their seeds."""
    # A point gives the same picture for every seed: a fixed seed keeps the answer cacheable.
    drawn = 0 if body.point is not None else random.getrandbits(32)
    first = drawn if body.seed is None else body.seed
    seeds = body.seeds or [image_seed(first, index) for index in range(body.count)]
    which: Params = {"seeds": [*seeds]} if body.seeds else {"seed": first}
    return [resolved.row(seed, index) for index, seed in enumerate(seeds)], {"n": len(seeds), **which}
