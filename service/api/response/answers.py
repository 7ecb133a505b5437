"""From accepted rows to an HTTP answer: wait, encode, label, measure. What generating and interpolating share."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.api.order import Made, Order
from service.api.response.caching import not_modified, unchanged
from service.api.response.rendering import file_name, render
from service.api.response.run import accept
from service.api.state import State
from service.request_info import info_of

#: Above this many pixels encoding leaves the event loop: it would hold up every other answer.
INLINE_PIXELS = 65_536


#: The body of an answer.
Encode = Callable[[Order, Made, Request], bytes]


class PicturesResponse(Response):
    """Bytes under header lines that are already encoded."""

    def __init__(self, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        # Not the base class's: it would look through the headers and encode every one anew.
        self.status_code, self.background = 200, None
        self.body, self.raw_headers = content, headers


async def answer(request: Request, state: State, order: Order, encode: Encode = render) -> Response:
    """Compute ``order``, and answer with what ``encode`` makes of its pictures, of type ``order.media``.

    Raises ServiceError; ClientDisconnect when the client leaves, its work dropped.
    """
    if order.cache is not None and not_modified(request, order.cache):
        return unchanged(order.cache)
    order, made = await compute(request, state, order)
    info = info_of(request.scope)
    response = await answer_made(request, order, made, encode, info.arrived_at + made.queue_s + made.compute_s)
    order.deployment.metrics.request_seconds.observe(sum(info.stages_s or ()))
    return response


async def answer_made(
    request: Request, order: Order, made: Made, encode: Encode = render, made_at: float | None = None
) -> PicturesResponse:
    """The answer to ``request`` that shows what was ``made`` of ``order``, just now unless ``made_at`` says when."""
    encoding = time.monotonic() if made_at is None else made_at
    tiles = len(made.pictures) + 2 * len(made.film)
    inline = tiles * made.pictures[0].size * order.asked.scale**2 <= INLINE_PIXELS
    content = encode(order, made, request) if inline else await asyncio.to_thread(encode, order, made, request)
    encode_s = time.monotonic() - encoding
    info_of(request.scope).stages_s = made.queue_s, made.compute_s, encode_s
    order.deployment.metrics.encode_seconds.observe(encode_s)
    return PicturesResponse(content, _headers(order, len(content), made, encode_s))


async def compute(request: Request, state: State, order: Order) -> tuple[Order, Made]:
    """``order`` as it was computed, and its pictures. Raises as ``answer``."""
    info = info_of(request.scope)
    info.rows = len(order.rows)
    run = accept(request, state, order, state.settings.request_timeout_s)
    info.disconnect.on_disconnect(lambda: run.give_up(ClientDisconnect(), counted="client-left"))
    try:
        made = await run.make()
        return run.order, made
    finally:
        info.disconnect.clear()


def _headers(order: Order, length: int, made: Made, encode_s: float) -> list[tuple[bytes, bytes]]:
    milliseconds = 1000 * made.queue_s, 1000 * made.compute_s, 1000 * encode_s
    model = order.model
    headers = [
        *_fixed_headers(model.name, model.manifest.version, order.media),
        (b"content-length", b"%d" % length),
        (b"x-seed", b", ".join([b"%d" % seed for seed in order.seeds if seed is not None])),
        (b"server-timing", b"queue;dur=%.3f, compute;dur=%.3f, encode;dur=%.3f" % milliseconds),
        (b"content-disposition", f'inline; filename="{file_name(order, order.media)}"'.encode()),
    ]
    headers += (
        [_NO_STORE] if order.cache is None else [(b"etag", order.cache.etag), (b"cache-control", order.cache.control)]
    )
    return headers


_NO_STORE = (b"cache-control", b"no-store")


@lru_cache
def _fixed_headers(model: str, version: str, media: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", media.encode()),
        (b"x-model", model.encode()),
        (b"x-model-version", version.encode()),
        (b"vary", b"Accept"),
    ]
