"""From accepted rows to an HTTP answer: wait, encode, label, measure. What generating and interpolating share."""

import asyncio
import base64
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import images
from service.admission.job import Job
from service.api.negotiation import GIF, JSON, NPY, PNG
from service.api.schemas import Picture, PicturesAnswer, Timings
from service.api.state import State
from service.engine.engine import Deployment
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.errors import DeadlineExceeded

#: Frames a second of an animation.
GIF_FPS = 10

#: A client's leaving is looked for from here on: the task that looks costs more than a quick model's whole answer.
WATCH_AFTER_S = 0.02

#: Above this many pixels encoding leaves the event loop: it would hold up every other answer.
INLINE_PIXELS = 65_536


class Order(NamedTuple):
    """One request, ready to compute: ``rows``' pictures, shown as ``media``, in ``columns`` where one image has all.

    ``timeout_ms`` is the client's own; None, the service's.
    """

    deployment: Deployment
    rows: Sequence[RowSpec]
    timeout_ms: int | None
    media: str
    scale: int
    columns: int
    params: dict[str, int | float | str | None]
    seeds: Sequence[int | None]

    @property
    def model(self) -> Model:
        """What computes it."""
        return self.deployment.model


class PicturesResponse(Response):
    """Bytes under header lines that are already encoded."""

    def __init__(self, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        # Not the base class's: it would look through the headers and encode every one anew.
        self.status_code, self.background = 200, None
        self.body, self.raw_headers = content, headers


async def answer(request: Request, state: State, order: Order) -> Response:
    """Compute ``order``, and answer. Raises ServiceError; ClientDisconnect when the client leaves, its work dropped."""
    timeout_s = state.settings.request_timeout_s
    if order.timeout_ms is not None:
        timeout_s = min(timeout_s, order.timeout_ms / 1000)
    job = state.engine.submit(order.deployment, order.rows, _client(request), timeout_s)
    pictures = await _wait(request, job, timeout_s)
    encoding = time.perf_counter()
    queue_s, compute_s = _stages(job)
    encode = partial(_encode, order, pictures, queue_s, compute_s)
    inline = len(pictures) * pictures[0].size * order.scale**2 <= INLINE_PIXELS
    content = encode() if inline else await asyncio.to_thread(encode)
    answered = time.perf_counter()
    metrics = order.deployment.metrics
    metrics.images.inc(len(pictures))
    metrics.queue_seconds.observe(queue_s)
    metrics.compute_seconds.observe(compute_s)
    metrics.encode_seconds.observe(answered - encoding)
    metrics.request_seconds.observe(answered - request.scope["state"]["arrived_at"])
    return PicturesResponse(content, _headers(order, len(content), queue_s, compute_s, answered - encoding))


async def _wait(request: Request, job: Job[images.Pixels], timeout_s: float) -> Sequence[images.Pixels]:
    """The job's pictures, unless the client leaves or the time is up: then its rows never reach the device."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    watcher: list[asyncio.Task[None]] = []
    timer = loop.call_later(
        min(WATCH_AFTER_S, timeout_s), lambda: watcher.append(loop.create_task(_watch(request, job, end, timeout_s)))
    )
    try:
        return await job.future
    finally:
        job.cancel()  # when this task was cancelled; else it is over
        timer.cancel()
        for task in watcher:
            task.cancel()


def _client(request: Request) -> str:
    """Who asks: the address of the other end of the connection, which a sender cannot choose."""
    client = request.scope["client"]
    return client[0] if client else ""


async def _watch(request: Request, job: Job[images.Pixels], end: float, timeout_s: float) -> None:
    """Fail ``job`` when its client leaves, or at ``end`` on the event loop's clock."""
    try:
        async with asyncio.timeout_at(end):
            while (await request.receive())["type"] != "http.disconnect":
                pass
        job.fail(ClientDisconnect())
    except TimeoutError:
        job.fail(_too_late(timeout_s))


def _too_late(timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"The pictures were not ready within {timeout_s:g} s; their work was dropped.")


def _stages(job: Job[images.Pixels]) -> tuple[float, float]:
    """Seconds queued and seconds computing."""
    assert job.started_at is not None
    assert job.finished_at is not None
    return job.started_at - job.submitted_at, job.finished_at - job.started_at


def _encode(order: Order, pictures: Sequence[images.Pixels], queue_s: float, compute_s: float) -> bytes:
    if order.media == PNG:
        return images.encode_png(images.enlarge(images.tile(pictures, order.columns), order.scale))
    if order.media == JSON:
        return _json(order, pictures, queue_s, compute_s)
    enlarged = np.stack([images.enlarge(picture, order.scale) for picture in pictures])
    if order.media == NPY:
        return images.encode_npy(enlarged)
    assert order.media == GIF
    return images.encode_gif(enlarged, GIF_FPS)


def _json(order: Order, pictures: Sequence[images.Pixels], queue_s: float, compute_s: float) -> bytes:
    started = time.perf_counter()
    shown = [_picture(order, index, images.enlarge(picture, order.scale)) for index, picture in enumerate(pictures)]
    encode_s = time.perf_counter() - started
    body = PicturesAnswer(
        model=order.model.name,
        model_version=order.model.manifest.version,
        params=order.params,
        images=shown,
        timings=Timings(queue_ms=1000 * queue_s, compute_ms=1000 * compute_s, encode_ms=1000 * encode_s),
    )
    return body.model_dump_json().encode()


def _picture(order: Order, index: int, picture: images.Pixels) -> Picture:
    height, width, _ = picture.shape
    names, label = order.model.manifest.class_names, order.rows[index].label
    return Picture(
        index=index,
        seed=order.seeds[index],
        class_label=names[label] if label < len(names) else None,
        width=width,
        height=height,
        b64_png=base64.b64encode(images.encode_png(picture)).decode(),
    )


def _headers(order: Order, length: int, queue_s: float, compute_s: float, encode_s: float) -> list[tuple[bytes, bytes]]:
    seeds = ", ".join([str(seed) for seed in order.seeds if seed is not None])
    timing = f"queue;dur={1000 * queue_s:.3f}, compute;dur={1000 * compute_s:.3f}, encode;dur={1000 * encode_s:.3f}"
    return [
        *_fixed_headers(order.model.name, order.model.manifest.version, order.media),
        (b"content-length", b"%d" % length),
        (b"x-seed", seeds.encode()),
        (b"server-timing", timing.encode()),
    ]


@lru_cache
def _fixed_headers(model: str, version: str, media: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", media.encode()),
        (b"x-model", model.encode()),
        (b"x-model-version", version.encode()),
        (b"vary", b"Accept"),
        (b"cache-control", b"no-store"),
    ]
