"""From accepted rows to an HTTP answer: wait, encode, label, measure. What generating and interpolating share."""

import asyncio
import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import images
from service.admission.job import Job
from service.api.negotiation import GIF, JSON, NPY, PNG
from service.api.schemas import Picture, PicturesAnswer, Timings
from service.api.state import State
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.errors import DeadlineExceeded

#: Frames a second of an animation.
GIF_FPS = 10

#: A client's leaving is looked for from here on: the task that looks costs more than a quick model's whole answer.
WATCH_AFTER_S = 0.02

#: Above this many pixels encoding leaves the event loop: it would hold up every other answer.
INLINE_PIXELS = 65_536


@dataclass(frozen=True)
class Ask:
    """One request, ready to compute: ``rows``' pictures, shown as ``media``, in ``columns`` where one image has all."""

    model: Model
    rows: Sequence[RowSpec]
    media: str
    scale: int
    columns: int
    params: dict[str, int | float | str | None]
    seeds: Sequence[int | None]


async def answer(request: Request, state: State, ask: Ask) -> Response:
    """Compute ``ask`` and answer it. Raises ServiceError; ClientDisconnect when the client leaves, its work dropped."""
    job = state.engine.submit(ask.model.name, ask.rows)
    pictures = np.stack(await _wait(request, job, state.settings.request_timeout_s))
    encoding = time.perf_counter()
    queue_s, compute_s = _stages(job)
    encode = partial(_encode, ask, pictures, queue_s, compute_s)
    content = encode() if pictures.size * ask.scale**2 <= INLINE_PIXELS else await asyncio.to_thread(encode)
    encode_s = time.perf_counter() - encoding
    metrics = state.engine.lanes[ask.model.name].metrics
    metrics.images.inc(len(pictures))
    metrics.queue_seconds.observe(queue_s)
    metrics.compute_seconds.observe(compute_s)
    metrics.encode_seconds.observe(encode_s)
    metrics.request_seconds.observe(time.perf_counter() - request.state.arrived_at)
    return Response(content, media_type=ask.media, headers=_headers(ask, queue_s, compute_s, encode_s))


async def _wait(request: Request, job: Job[images.Pixels], timeout_s: float) -> Sequence[images.Pixels]:
    """The job's pictures, unless the client leaves or the time is up: then its rows never reach the device."""
    loop = asyncio.get_running_loop()
    watcher: list[asyncio.Task[None]] = []
    timers = (
        loop.call_later(timeout_s, lambda: job.fail(_too_late(timeout_s))),
        loop.call_later(WATCH_AFTER_S, lambda: watcher.append(loop.create_task(_fail_when_gone(request, job)))),
    )
    try:
        return await job.future
    finally:
        for timer in timers:
            timer.cancel()
        for task in watcher:
            task.cancel()


async def _fail_when_gone(request: Request, job: Job[images.Pixels]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.fail(ClientDisconnect())


def _too_late(timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"The pictures were not ready within {timeout_s:g} s; their work was dropped.")


def _stages(job: Job[images.Pixels]) -> tuple[float, float]:
    """Seconds queued and seconds computing."""
    assert job.started_at is not None
    assert job.finished_at is not None
    return job.started_at - job.submitted_at, job.finished_at - job.started_at


def _encode(ask: Ask, pictures: images.Pixels, queue_s: float, compute_s: float) -> bytes:
    if ask.media == JSON:
        return _json(ask, pictures, queue_s, compute_s)
    if ask.media == NPY:
        return images.encode_npy(_enlarged(pictures, ask.scale))
    if ask.media == GIF:
        return images.encode_gif(_enlarged(pictures, ask.scale), GIF_FPS)
    assert ask.media == PNG
    return images.encode_png(images.enlarge(images.tile(pictures, ask.columns), ask.scale))


def _enlarged(pictures: images.Pixels, scale: int) -> images.Pixels:
    return np.stack([images.enlarge(picture, scale) for picture in pictures])


def _json(ask: Ask, pictures: images.Pixels, queue_s: float, compute_s: float) -> bytes:
    started = time.perf_counter()
    shown = [_picture(ask, index, picture) for index, picture in enumerate(_enlarged(pictures, ask.scale))]
    encode_s = time.perf_counter() - started
    body = PicturesAnswer(
        model=ask.model.name,
        model_version=ask.model.manifest.version,
        params=ask.params,
        images=shown,
        timings=Timings(queue_ms=1000 * queue_s, compute_ms=1000 * compute_s, encode_ms=1000 * encode_s),
    )
    return body.model_dump_json().encode()


def _picture(ask: Ask, index: int, picture: images.Pixels) -> Picture:
    height, width, _ = picture.shape
    names, label = ask.model.manifest.class_names, ask.rows[index].label
    return Picture(
        index=index,
        seed=ask.seeds[index],
        class_label=names[label] if label < len(names) else None,
        width=width,
        height=height,
        b64_png=base64.b64encode(images.encode_png(picture)).decode(),
    )


def _headers(ask: Ask, queue_s: float, compute_s: float, encode_s: float) -> dict[str, str]:
    stages = (("queue", queue_s), ("compute", compute_s), ("encode", encode_s))
    return {
        "X-Model": ask.model.name,
        "X-Model-Version": ask.model.manifest.version,
        "X-Seed": ", ".join(str(seed) for seed in ask.seeds if seed is not None),
        "Server-Timing": ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in stages),
        "Vary": "Accept",
        "Cache-Control": "no-store",
    }
