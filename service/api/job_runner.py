"""From an order to a job: what becomes of it on the engine, told as the job's events."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import Request

from service import images
from service.admission.job import Job
from service.api.answers import answer_made, client_of, count_made, give_up, too_late
from service.api.arrays import Array
from service.api.negotiation import JSON
from service.api.rendering import Order
from service.api.sheet import PREVIEWS
from service.api.state import Finished, PictureJob, State
from service.engine.results import Preview
from service.engine.rows import Film
from service.errors import JobCanceled, ServiceError
from service.jobs.record import JobRecord, Standing

log = logging.getLogger(__name__)


class Glimpse(NamedTuple):
    """What a preview event shows: ``picture``, of one kind, of a row on its way."""

    preview: Preview
    kind: str
    picture: images.Pixels


class Shown(NamedTuple):
    """What an image event shows: the picture of one row."""

    row: int
    picture: images.Pixels


def start_job(request: Request, state: State, order: Order, *, live: bool) -> PictureJob:
    """Begin ``order`` as a job of the client of ``request``, ``live`` where its events are what it is for.

    Raises JobsFull, and as ``Engine.submit``.
    """
    order = filmed(order, live=live)
    timeout_s = state.settings.job_timeout_s
    if order.asked.timeout_ms is not None:
        timeout_s = min(timeout_s, order.asked.timeout_ms / 1000)
    record: PictureJob = JobRecord(
        os.urandom(16).hex(), client_of(request), order, time.time(), len(to_json(order.params))
    )
    state.jobs.add(record)
    try:
        job = state.engine.submit(order.deployment, order.rows, record.client, timeout_s)
    except BaseException:
        state.jobs.withdraw(record)
        raise
    film: list[Preview] = []
    _connect(state, record, job, film)
    record.task = asyncio.create_task(_finish(state, record, job, film, _about(request, record.id), timeout_s))
    return record


def leave(record: PictureJob) -> None:
    """The client has gone that alone knows of this job."""
    if not record.done:
        record.work.deployment.metrics.cancelled["client-left"].inc()
        record.cancel()


def filmed(order: Order, *, live: bool) -> Order:
    """``order`` with the previews that it asks for, or in a stream some."""
    if order.rows[0].film is not None:
        return order
    steps, every = order.rows[0].plan.steps, order.asked.preview_every
    if every is None and live:
        every = max(1, steps // PREVIEWS)
    if not steps or not every:
        return order
    film = Film(every, order.asked.preview_kind or "x0")
    return order._replace(rows=[row._replace(film=film) for row in order.rows])


def _connect(state: State, record: PictureJob, job: Job[images.Pixels], film: list[Preview]) -> None:
    """Tell ``record`` what happens to ``job``, and drop the work when nobody wants it any more.

    Previews that the answer itself is to show are collected in ``film``.
    """
    shown = record.work.asked.layout == "film"
    deployment, calls = record.work.deployment, sum(row.calls for row in record.work.rows)

    def look() -> None:
        if job.started_at is not None and record.log.last_id:  # its place in the queue is told first
            record.start()
        progress = state.engine.progress(deployment, job)
        done = 1 - sum(progress.calls_left) / calls
        record.stand(Standing(done, progress.rows_ahead, progress.eta_ms))

    def preview(preview: Preview) -> None:
        if shown:
            film.append(preview)
        for kind, picture in (("x0", preview.x_start), ("xt", preview.x_t)):
            if picture is not None:
                record.preview(Glimpse(preview, kind, picture), picture.nbytes)

    job.on_preview = preview
    job.on_result = lambda row, picture: record.image(Shown(row, picture), picture.nbytes)
    record.on_end(lambda: job.fail(JobCanceled(record.id)))
    record.look = look
    look()


async def _finish(
    state: State,
    record: PictureJob,
    job: Job[images.Pixels],
    film: Sequence[Preview],
    about: Request,
    timeout_s: float,
) -> None:
    """Wait for ``job``, and end ``record`` with what it gives."""
    late = record.work.deployment.metrics.cancelled["too-late"]
    timer = asyncio.get_running_loop().call_later(timeout_s, give_up, job, late, partial(too_late, timeout_s))
    try:
        made = count_made(record.work, job, await job.future, about.scope["state"], film)
        answer = await answer_made(about, record.work._replace(media=JSON), made)
        record.work.deployment.metrics.request_seconds.observe(sum(about.scope["state"]["stages_s"]))
        body = bytes(answer.body)
        kept = sum(picture.nbytes for each in film for picture in (each.x_start, each.x_t) if picture is not None)
        record.succeed(Finished(made, body, answer.raw_headers), body, len(body) + kept)
    except ServiceError as failure:
        _fail(state, record, failure)
    except Exception:
        log.exception("unexpected error", extra={"job": record.id})
        _fail(state, record, ServiceError("The service failed; its log says why."))
    finally:
        timer.cancel()
        record.work = _slim(record.work)


def _fail(state: State, record: PictureJob, failure: ServiceError) -> None:
    if not record.done:
        state.count_error(record.work.model.name, failure.code)
        record.fail(failure.with_traceback(None))


def _slim(order: Order) -> Order:
    """``order`` without what only computing it took."""
    rows = [row._replace(latent=None, inpaint=None) for row in order.rows]
    return order._replace(rows=rows, asked=without_uploads(order.asked))


def without_uploads(value: Any) -> Any:  # noqa: ANN401  (any field's value)
    """``value`` with None for every file and array in it, however deep."""
    if isinstance(value, bytes | Array):
        return None
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: without_uploads(each) for name, each in value})
    return [without_uploads(each) for each in value] if isinstance(value, list) else value


def _about(request: Request, id: str) -> Request:
    """What a job's answer tells of ``request``, without its connection and its body; the answer's id is the job's."""
    state = {"request_id": id, "arrived_at": request.scope["state"]["arrived_at"]}
    headers = [(name, value) for name, value in request.scope["headers"] if name == b"host"]
    where = {name: request.scope[name] for name in ("scheme", "root_path") if name in request.scope}
    return Request({"type": "http", **where, "headers": headers, "state": state})
