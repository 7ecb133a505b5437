"""From accepted rows to an HTTP answer: wait, encode, label, measure. What generating and interpolating share."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from prometheus_client import Counter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import images
from service.admission.job import Job
from service.api.caching import not_modified, unchanged
from service.api.rendering import Made, Order, file_name, render
from service.api.schemas import Showing
from service.api.state import State
from service.engine.results import Preview
from service.errors import DeadlineExceeded
from service.extensions import departure_of
from service.metrics import ModelMetrics

Result = TypeVar("Result")

#: Above this many pixels encoding leaves the event loop: it would hold up every other answer.
INLINE_PIXELS = 65_536


#: The body of an answer.
Encode = Callable[[Order, Made, Request], bytes]


class Timeout(NamedTuple):
    """How long the work for an answer may take, all of it: seconds, and of those what is left from now on."""

    given_s: float
    left_s: float


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
    made = await compute(request, state, order)
    told = request.scope["state"]
    response = await answer_made(request, order, made, encode, told["arrived_at"] + made.queue_s + made.compute_s)
    order.deployment.metrics.request_seconds.observe(sum(told["stages_s"]))
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
    request.scope["state"]["stages_s"] = made.queue_s, made.compute_s, encode_s
    order.deployment.metrics.encode_seconds.observe(encode_s)
    return PicturesResponse(content, _headers(order, len(content), made, encode_s))


async def compute(request: Request, state: State, order: Order) -> Made:
    """The pictures of ``order``. Raises as ``answer``."""
    timeout, told = timeout_of(request, state, order.asked), request.scope["state"]
    told["rows"] = len(order.rows)
    job = state.engine.submit(order.deployment, order.rows, client_of(request), timeout.left_s)
    film: list[Preview] = []
    if order.rows[0].film is not None:
        job.on_preview = film.append
    pictures = await wait(request, job, timeout, order.deployment.metrics)
    return count_made(order, job, pictures, told, film)


def timeout_of(request: Request, state: State, asked: Showing) -> Timeout:
    """For how long the work for an answer to ``asked`` may take. Raises DeadlineExceeded when it has."""
    given_s = state.settings.request_timeout_s
    if asked.timeout_ms is not None:
        given_s = min(given_s, asked.timeout_ms / 1000)
    now = time.monotonic()
    left_s = request.scope["state"].setdefault("ends_at", now + given_s) - now
    if left_s <= 0:
        raise too_late(given_s)
    return Timeout(given_s, left_s)


def count_made(
    order: Order,
    job: Job[images.Pixels],
    pictures: Sequence[images.Pixels],
    told: Mapping[str, Any],
    film: Sequence[Preview] = (),
) -> Made:
    """What ``job`` made of ``order``, counted; ``told`` says on the monotonic clock when the request arrived."""
    made = Made(pictures, *_stages(job, told), film)
    metrics = order.deployment.metrics
    metrics.images.inc(len(pictures))
    metrics.queue_seconds.observe(made.queue_s)
    metrics.compute_seconds.observe(made.compute_s)
    return made


async def wait(request: Request, job: Job[Result], timeout: Timeout, metrics: ModelMetrics) -> Sequence[Result]:
    """The job's results, unless the client leaves or the time is up: then its rows never reach the device."""
    departure = departure_of(request.scope)
    departure.then(partial(give_up, job, metrics.cancelled["client-left"], ClientDisconnect))
    timer = asyncio.get_running_loop().call_later(
        timeout.left_s, give_up, job, metrics.cancelled["too-late"], partial(too_late, timeout.given_s)
    )
    try:
        return await job.future
    finally:
        job.cancel()  # when this task was cancelled; else it is over
        timer.cancel()
        departure.forget()


def client_of(request: Request) -> str:
    """Who asks: the address of the other end of the connection, which a sender cannot choose."""
    client = request.scope["client"]
    return client[0] if client else ""


def give_up(job: Job[Any], counted: Counter, failure: Callable[[], Exception]) -> None:
    """End a job that is not over with ``failure``, and count it."""
    if not job.done:
        counted.inc()
        job.fail(failure())


def too_late(given_s: float) -> DeadlineExceeded:
    """What a request or a job ends with that took longer than it may."""
    return DeadlineExceeded(f"The pictures were not ready within {given_s:g} s; their work was dropped.")


def _stages(job: Job[Any], told: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds until the first tick for the request, be it for what its pictures begin from, and to the last picture."""
    assert job.started_at is not None
    assert job.finished_at is not None
    started_at = told.get("started_at", job.started_at)
    return started_at - told["arrived_at"], job.finished_at - started_at


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
