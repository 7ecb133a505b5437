"""An order computed as a job: the engine's progress, previews and results become the job's events."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial

from starlette.requests import Request

from service.api.order import Order, without
from service.api.request.arrays import Array
from service.api.request.layout import PREVIEWS
from service.api.request.negotiation import JSON
from service.api.response.answers import answer_with
from service.api.response.execution import Execution, admit
from service.api.response.job_events import ImageEvent, PreviewEvent
from service.api.response.recipe import Recipe, recipe_of, unpack_recipe
from service.api.state import JobResult, PictureJob, State, client_of
from service.engine.deployment import Deployment
from service.engine.results import Preview
from service.engine.rows import Film
from service.errors import (
    ComputeFailed,
    JobCanceled,
    MemoryFull,
    ModelUnavailable,
    Overloaded,
    ServiceError,
    ShareExceeded,
    TooLate,
)
from service.request_info import KEY, Disconnect, RequestInfo, info_of
from service.store.job import About, Job, JobProgress
from service.store.jobs import Interrupted

log = logging.getLogger(__name__)


#: A job that was open in so many processes that died is not computed again.
MOST_CRASHES = 3

#: Rejections that end once there is room, or the model serves again: an interrupted job, which was accepted, waits.
_NO_ROOM = (MemoryFull, ModelUnavailable, Overloaded, ShareExceeded, TooLate)

#: Builds the order of a stored job for a deployment. Raises ServiceError.
Rebuild = Callable[[State, Recipe, Deployment], Order]


async def start_job(request: Request, state: State, order: Order, *, live: bool) -> PictureJob:
    """Start ``order`` as a job of the client of ``request``; ``live`` if its events are the answer.

    Nothing is computed or decoded when this returns, and the job is in the store. Raises JobsFull, StoreUnavailable,
    and as ``admit``.
    """
    recipe = partial(recipe_of, order, request, live=live)
    order = with_previews(order, live=live)
    execution = admit(request, state, order, state.settings.job_timeout_s)
    try:
        job: PictureJob = Job(os.urandom(16).hex(), client_of(request), order, about_of(order), time.time())
        await state.jobs.add(job, recipe)
    except BaseException:
        execution.discard()
        raise
    _begin(state, job, execution, _detached(request, job.id))
    return job


async def resume_jobs(state: State, builders: Mapping[str, Rebuild]) -> None:
    """Compute interrupted jobs again, as many as there is room for; ``builders`` by the task of their recipes."""
    full: set[str] = set()
    while (found := await state.jobs.claim([*full])) is not None:
        try:
            await _resume(state, found, builders)
        except _NO_ROOM:
            await state.jobs.unclaim(found.id)
            full.add(found.model)
        except ServiceError as failure:
            await state.jobs.fail(found.id, failure)
        except Exception:
            log.exception("unexpected error", extra={"job": found.id})
            await state.jobs.fail(found.id, ServiceError("The service failed; its log says why."))


async def _resume(state: State, found: Interrupted, builders: Mapping[str, Rebuild]) -> None:
    """Compute a claimed job; its time limit begins anew. Raises as ``admit`` and its builder, UnknownModel."""
    if found.crashes >= MOST_CRASHES:
        raise ComputeFailed(f"The service ended {found.crashes} times while it computed this job.")
    recipe = unpack_recipe(found.recipe)
    deployment = state.deployment(recipe.model)
    request = recipe.request(found.client)
    order = with_previews(builders[recipe.task](state, recipe, deployment), live=recipe.live)
    execution = admit(request, state, order, state.settings.job_timeout_s)
    job: PictureJob = Job(found.id, found.client, order, about_of(order), found.created, found.last_event)
    try:
        await state.jobs.resume(job)
    except BaseException:
        execution.discard()
        raise
    _begin(state, job, execution, _detached(request, job.id))


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


def about_of(order: Order) -> About:
    """The description of ``order`` that clients see before it is computed."""
    version, steps = order.model.manifest.version, order.rows[0].plan.steps
    return About(order.model.name, version, steps, order.seeds, order.params, order.dialect)


def _begin(state: State, job: PictureJob, execution: Execution, request: Request) -> None:
    _connect(job, execution)
    job.task = asyncio.create_task(_run(state, job, execution, request))


def _connect(job: PictureJob, execution: Execution) -> None:
    """Report ``execution`` to ``job`` from now on, and stop it when the job ends."""
    accepted, scale = execution.accepted, execution.order.asked.scale

    def refresh() -> None:
        if accepted.started_at is not None and len(job.log):  # the first event is the place in the queue
            job.mark_running()
        progress = accepted.progress()
        job.update_progress(JobProgress(1 - progress.calls_left / accepted.calls, progress.rows_ahead, progress.eta_ms))

    def preview(preview: Preview) -> None:
        for kind, picture in (("x0", preview.x_start), ("xt", preview.x_t)):
            if picture is not None:
                job.add_preview(PreviewEvent(preview, kind, picture, scale), picture.nbytes)

    execution.on_begin = lambda order: job.replace_work(order, about_of(order))
    execution.on_preview = preview
    execution.on_result = lambda row, picture: job.add_image(ImageEvent(row, picture, scale), picture.nbytes)
    execution.enqueue()
    job.on_end(lambda: execution.stop(JobCanceled(job.id)))
    job.look = refresh
    refresh()


async def _run(state: State, job: PictureJob, execution: Execution, request: Request) -> None:
    """Run ``execution``, and end ``job`` with its result or its error."""
    try:
        output = await execution.run()
        answer = await answer_with(request, execution.order._replace(media=JSON), output)
        execution.order.deployment.metrics.request_seconds.observe(sum(info_of(request.scope).stages_s or ()))
        body, film = bytes(answer.body), output.film
        kept = sum(picture.nbytes for each in film for picture in (each.x_start, each.x_t) if picture is not None)
        result = JobResult(_finished(execution.order), output, body, answer.raw_headers)
        job.succeed(result, body, len(body) + kept)
    except ServiceError as failure:
        _fail(state, job, failure)
    except Exception:
        log.exception("unexpected error", extra={"job": job.id})
        _fail(state, job, ServiceError("The service failed; its log says why."))
    finally:
        job.work = _finished(job.work)


def _fail(state: State, job: PictureJob, failure: ServiceError) -> None:
    if not job.done:
        state.count_error(job.work.model.name, failure.code)
        job.fail(failure.with_traceback(None))


def _finished(order: Order) -> Order:
    """``order`` without the tensors and files that only its computation needs."""
    rows = [row._replace(latent=None, inpaint=None, conditions=None) for row in order.rows]
    return order._replace(rows=rows, asked=without(order.asked, Array), uploads=None, begin=None, reading=None)


def _detached(request: Request, id: str) -> Request:
    """``request`` as far as a job's answer needs it, without connection and body; its id is the job's."""
    info = RequestInfo(arrived_at=info_of(request.scope).arrived_at, request_id=id)
    headers = [(name, value) for name, value in request.scope["headers"] if name == b"host"]
    where = {name: request.scope[name] for name in ("scheme", "root_path", "client") if name in request.scope}
    return Request({"type": "http", **where, "headers": headers, "state": {KEY: info}})
