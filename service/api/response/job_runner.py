"""An order computed as a job: the engine's progress, previews and results become the job's events."""

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
from service.api.response.answers import answer_with
from service.api.response.execution import Execution, admit
from service.api.state import JobResult, PictureJob, State, client_of
from service.engine.results import Preview
from service.engine.rows import Film
from service.errors import JobCanceled, ServiceError
from service.request_info import KEY, Disconnect, RequestInfo, info_of
from service.store.job import Job, JobProgress

log = logging.getLogger(__name__)


class PreviewEvent(NamedTuple):
    """The payload of a preview event: ``picture``, of one ``kind``, of a row before its last step."""

    preview: Preview
    kind: str
    picture: images.Pixels


class ImageEvent(NamedTuple):
    """The payload of an image event: the picture of one row."""

    row: int
    picture: images.Pixels


def start_job(request: Request, state: State, order: Order, *, live: bool) -> PictureJob:
    """Start ``order`` as a job of the client of ``request``; ``live`` if its events are the answer.

    Nothing is computed or decoded when this returns. Raises JobsFull, and as ``admit``.
    """
    order = with_previews(order, live=live)
    job: PictureJob = Job(os.urandom(16).hex(), client_of(request), order, time.time(), _size(order))
    state.jobs.add(job)
    try:
        execution = admit(request, state, order, state.settings.job_timeout_s)
    except BaseException:
        state.jobs.withdraw(job)
        raise
    _connect(job, execution)
    job.task = asyncio.create_task(_run(state, job, execution, _detached(request, job.id)))
    return job


def end_with_connection(job: PictureJob, disconnect: Disconnect) -> None:
    """End a job whose id only this connection knows; counted if it has not ended and the client disconnected."""
    if disconnect.closed and not job.done:
        job.work.deployment.metrics.cancelled["client-left"].inc()
    job.cancel()


def with_previews(order: Order, *, live: bool) -> Order:
    """``order`` with the previews that its request selects; for a ``live`` one, about ``PREVIEWS`` by default."""
    if order.rows[0].film is not None:
        return order
    steps, every = order.rows[0].plan.steps, order.asked.preview_every
    if every is None and live:
        every = max(1, steps // PREVIEWS)
    if not steps or not every:
        return order
    film = Film(every, order.asked.preview_kind or "x0")
    return order._replace(rows=[row._replace(film=film) for row in order.rows])


def _connect(job: PictureJob, execution: Execution) -> None:
    """Report ``execution`` to ``job`` from now on, and stop it when the job ends."""
    accepted = execution.accepted

    def refresh() -> None:
        if accepted.started_at is not None and job.log.last_id:  # the first event is the place in the queue
            job.mark_running()
        progress = accepted.progress()
        job.update_progress(JobProgress(1 - progress.calls_left / accepted.calls, progress.rows_ahead, progress.eta_ms))

    def preview(preview: Preview) -> None:
        for kind, picture in (("x0", preview.x_start), ("xt", preview.x_t)):
            if picture is not None:
                job.add_preview(PreviewEvent(preview, kind, picture), picture.nbytes)

    execution.on_begin = lambda order: job.replace_work(order, _size(order))
    execution.on_preview = preview
    execution.on_result = lambda row, picture: job.add_image(ImageEvent(row, picture), picture.nbytes)
    execution.enqueue()
    job.on_end(lambda: execution.stop(JobCanceled(job.id)))
    job.refresh = refresh
    refresh()


async def _run(state: State, job: PictureJob, execution: Execution, request: Request) -> None:
    """Run ``execution``, and end ``job`` with its result or its error."""
    try:
        output = await execution.run()
        answer = await answer_with(request, execution.order._replace(media=JSON), output)
        execution.order.deployment.metrics.request_seconds.observe(sum(info_of(request.scope).stages_s or ()))
        body, film = bytes(answer.body), output.film
        kept = sum(picture.nbytes for each in film for picture in (each.x_start, each.x_t) if picture is not None)
        job.succeed(JobResult(output, body, answer.raw_headers), body, len(body) + kept)
    except ServiceError as failure:
        _fail(state, job, failure)
    except Exception:
        log.exception("unexpected error", extra={"job": job.id})
        _fail(state, job, ServiceError("The service failed; its log says why."))
    finally:
        job.work = _finished(job.work)


def _size(order: Order) -> int:
    """Bytes that a job keeps of ``order``, roughly."""
    return len(to_json(order.params))


def _fail(state: State, job: PictureJob, failure: ServiceError) -> None:
    if not job.done:
        state.count_error(job.work.model.name, failure.code)
        job.fail(failure.with_traceback(None))


def _finished(order: Order) -> Order:
    """``order`` without the tensors and files that only its computation needs."""
    rows = [row._replace(latent=None, inpaint=None) for row in order.rows]
    return order._replace(rows=rows, asked=without(order.asked, Array), uploads=None, begin=None)


def _detached(request: Request, id: str) -> Request:
    """``request`` as far as a job's answer needs it, without connection and body; its id is the job's."""
    info = RequestInfo(arrived_at=info_of(request.scope).arrived_at, request_id=id)
    headers = [(name, value) for name, value in request.scope["headers"] if name == b"host"]
    where = {name: request.scope[name] for name in ("scheme", "root_path") if name in request.scope}
    return Request({"type": "http", **where, "headers": headers, "state": {KEY: info}})
