"""From an order to a job: what becomes of it on the engine, told as the job's events."""

import asyncio
import logging
import os
import time
from typing import NamedTuple

from pydantic_core import to_json
from starlette.requests import Request

from service import images
from service.api.order import Order, without
from service.api.request.arrays import Array
from service.api.request.layout import PREVIEWS
from service.api.request.negotiation import JSON
from service.api.response.answers import answer_made
from service.api.response.run import Run, accept, client_of
from service.api.state import Finished, PictureJob, State
from service.engine.results import Preview
from service.engine.rows import Film
from service.errors import JobCanceled, ServiceError
from service.request_info import KEY, RequestInfo, info_of
from service.store.job import Job, Standing

log = logging.getLogger(__name__)


class PreviewEvent(NamedTuple):
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

    Nothing is computed or decoded when this returns. Raises JobsFull, and as ``accept``.
    """
    order = filmed(order, live=live)
    record: PictureJob = Job(os.urandom(16).hex(), client_of(request), order, time.time(), _size(order))
    state.jobs.add(record)
    try:
        run = accept(request, state, order, state.settings.job_timeout_s)
    except BaseException:
        state.jobs.withdraw(record)
        raise
    _connect(record, run)
    record.task = asyncio.create_task(_finish(state, record, run, _about(request, record.id)))
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


def _connect(record: PictureJob, run: Run) -> None:
    """Tell ``record`` what happens to ``run``, and drop the work when nobody wants it any more."""

    def look() -> None:
        if run.accepted.started_at is not None and record.log.last_id:  # its place in the queue is told first
            record.start()
        progress = run.accepted.progress()
        record.stand(Standing(1 - progress.calls_left / run.accepted.calls, progress.rows_ahead, progress.eta_ms))

    def preview(preview: Preview) -> None:
        for kind, picture in (("x0", preview.x_start), ("xt", preview.x_t)):
            if picture is not None:
                record.preview(PreviewEvent(preview, kind, picture), picture.nbytes)

    run.on_begin = lambda order: record.begin(order, _size(order))
    run.on_preview = preview
    run.on_result = lambda row, picture: record.image(Shown(row, picture), picture.nbytes)
    record.on_end(lambda: run.give_up(JobCanceled(record.id)))
    record.look = look
    look()


async def _finish(state: State, record: PictureJob, run: Run, about: Request) -> None:
    """Wait for ``run``, and end ``record`` with what it gives."""
    try:
        made = await run.make()
        answer = await answer_made(about, run.order._replace(media=JSON), made)
        run.order.deployment.metrics.request_seconds.observe(sum(info_of(about.scope).stages_s or ()))
        body = bytes(answer.body)
        kept = sum(picture.nbytes for each in made.film for picture in (each.x_start, each.x_t) if picture is not None)
        record.succeed(Finished(made, body, answer.raw_headers), body, len(body) + kept)
    except ServiceError as failure:
        _fail(state, record, failure)
    except Exception:
        log.exception("unexpected error", extra={"job": record.id})
        _fail(state, record, ServiceError("The service failed; its log says why."))
    finally:
        record.work = _slim(record.work)


def _size(order: Order) -> int:
    """Bytes of what a job tells of ``order``, roughly."""
    return len(to_json(order.params))


def _fail(state: State, record: PictureJob, failure: ServiceError) -> None:
    if not record.done:
        state.count_error(record.work.model.name, failure.code)
        record.fail(failure.with_traceback(None))


def _slim(order: Order) -> Order:
    """``order`` without what only computing it took."""
    rows = [row._replace(latent=None, inpaint=None) for row in order.rows]
    return order._replace(rows=rows, asked=without(order.asked, Array), uploads=None, begin=None)


def _about(request: Request, id: str) -> Request:
    """What a job's answer tells of ``request``, without its connection and its body; the answer's id is the job's."""
    info = RequestInfo(arrived_at=info_of(request.scope).arrived_at, request_id=id)
    headers = [(name, value) for name, value in request.scope["headers"] if name == b"host"]
    where = {name: request.scope[name] for name in ("scheme", "root_path") if name in request.scope}
    return Request({"type": "http", **where, "headers": headers, "state": {KEY: info}})
