"""The answer of a request that waits for its pictures: compute, encode, add the headers."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from service.api.order import Order, Output
from service.api.response.caching import not_modified, unchanged
from service.api.response.execution import execute
from service.api.response.rendering import render
from service.api.response.reproduce import file_name
from service.api.state import State
from service.request_info import info_of

#: Answers with more pixels are encoded in a thread: on the event loop they would delay every other answer.
INLINE_PIXELS = 65_536


#: Encodes the body of an answer.
Encode = Callable[[Order, Output, Request], bytes]


class PicturesResponse(Response):
    """Bytes under headers that are already encoded."""

    def __init__(self, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        # Not the base class's: it encodes every header anew, and searches them.
        self.status_code, self.background = 200, None
        self.body, self.raw_headers = content, headers


async def answer(request: Request, state: State, order: Order, encode: Encode = render) -> Response:
    """Compute ``order``, and answer with its pictures as ``encode`` writes them, of media type ``order.media``.

    Raises ServiceError; ClientDisconnect when the client closes the connection, its work dropped.
    """
    if order.cache is not None and not_modified(request, order.cache):
        return unchanged(order.cache)
    info = info_of(request.scope)
    info.rows = len(order.rows)
    order, output = await execute(request, state, order)
    response = await answer_with(request, order, output, encode, info.arrived_at + output.queue_s + output.compute_s)
    order.deployment.metrics.request_seconds.observe(sum(info.stages_s or ()))
    return response


async def answer_with(
    request: Request, order: Order, output: Output, encode: Encode = render, computed_at: float | None = None
) -> PicturesResponse:
    """The answer to ``request`` with ``output``, computed at ``computed_at`` on the monotonic clock, else now."""
    started_at = time.monotonic() if computed_at is None else computed_at
    tiles = len(output.pictures) + 2 * len(output.film)
    inline = tiles * output.pictures[0].size * order.asked.scale**2 <= INLINE_PIXELS
    content = encode(order, output, request) if inline else await asyncio.to_thread(encode, order, output, request)
    encode_s = time.monotonic() - started_at
    info_of(request.scope).stages_s = output.queue_s, output.compute_s, encode_s
    order.deployment.metrics.encode_seconds.observe(encode_s)
    return PicturesResponse(content, _headers(order, len(content), output, encode_s))


def _headers(order: Order, length: int, output: Output, encode_s: float) -> list[tuple[bytes, bytes]]:
    milliseconds = 1000 * output.queue_s, 1000 * output.compute_s, 1000 * encode_s
    manifest = order.model.manifest
    headers = [
        *_fixed_headers(manifest.name, manifest.version, order.media),
        (b"content-length", b"%d" % length),
        (b"x-seed", b", ".join([b"%d" % seed for seed in order.seeds if seed is not None])),
        (b"server-timing", b"queue;dur=%.3f, compute;dur=%.3f, encode;dur=%.3f" % milliseconds),
        (
            b"content-disposition",
            f'inline; filename="{file_name(order, order.media)}"'.encode(),
        ),
    ]
    if order.cache is None:
        return [*headers, (b"cache-control", b"no-store")]
    return [*headers, (b"etag", order.cache.etag), (b"cache-control", order.cache.control)]


@lru_cache
def _fixed_headers(model: str, version: str, media: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", media.encode()),
        (b"x-model", model.encode()),
        (b"x-model-version", version.encode()),
        (b"vary", b"Accept"),
    ]
