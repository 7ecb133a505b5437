"""Answers about jobs: 202 with a status, the result once there is one, and waiting for it."""

import asyncio
import math

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from service.api.http.problem import Problem, problem_body
from service.api.order import Order
from service.api.request.layout import layout_of, shows_layout
from service.api.request.negotiation import JSON, PICTURES, accept_of, choose
from service.api.request.response_mode import ResponseMode
from service.api.response.answers import PicturesResponse, answer_with
from service.api.response.job_runner import end_with_connection, start_job
from service.api.response.reproduce import root_of
from service.api.response.schemas import JobStatus, JobUrls
from service.api.state import AnyJob, State, state_of
from service.errors import JobRunning
from service.request_info import info_of


async def answer_as_job(request: Request, state: State, order: Order, mode: ResponseMode) -> Response:
    """Start ``order`` as a job: its result if it ends within ``mode.wait_s`` seconds, else 202 with its status.

    A job that the client waits for ends when the client closes the connection: it does not know the id yet.
    """
    job, wait_s = await start_job(request, state, order, live=mode.live), mode.wait_s or 0.0
    try:
        ended = wait_s > 0 and await wait_for(request, job, wait_s)
    except BaseException:
        end_with_connection(job, info_of(request.scope).disconnect)
        raise
    response = await (result(request, job, mode.media) if ended else _accepted(job, root_of(request)))
    applied = f"wait={wait_s:g}" if wait_s else "respond-async"
    response.raw_headers.append((b"preference-applied", applied.encode()))
    return response


async def wait_for(request: Request, job: AnyJob, within_s: float) -> bool:
    """Whether ``job`` ends within ``within_s`` seconds. Raises ClientDisconnect if the client closes the connection."""
    disconnect = info_of(request.scope).disconnect
    try:
        async with asyncio.timeout(None) as timeout:
            disconnect.on_disconnect(lambda: timeout.reschedule(0))
            return await job.wait(within_s)
    except TimeoutError:
        raise ClientDisconnect from None
    finally:
        disconnect.clear()


async def result(request: Request, job: AnyJob, media: str | None = None) -> Response:
    """The result of ``job`` as ``media``, else as Accept prefers, else in the format of the job's own request.

    Raises:
        JobRunning: there is none yet.
        ServiceError: the job failed with it.
        NotAcceptable, InvalidField: the result cannot take the form that ``request`` selects.
    """
    if job.error is not None:
        info_of(request.scope).counted = True
        raise job.error.with_traceback(None)
    found = await job.output()
    if found is None:
        await job.refresh()
        raise JobRunning(job.id, job.state, max(1, math.ceil((job.progress.eta_ms or 0) / 1000)))
    order = found.order
    media = media or choose(accept_of(request), sorted(PICTURES, key=lambda offered: offered != order.media))
    if media == JSON:
        return PicturesResponse(found.body, [*found.headers])
    if media != order.media:
        name = order.asked.layout if shows_layout(order.asked, media) else "auto"
        asked = order.asked.model_copy(update={"quality": None, "layout": name, "fps": None})
        (height, width, channels), steps = found.output.pictures[0].shape, order.rows[0].plan.steps
        layout = layout_of(asked, media, (channels, height, width), steps, state_of(request).settings)
        order = order._replace(media=media, asked=asked, layout=layout)
    return await answer_with(request, order, found.output)


async def status_of(job: AnyJob, root: str) -> JobStatus:
    """The state and progress of ``job``, with its URLs below the path ``root``."""
    await job.refresh()
    steps, progress, path = job.about.steps, job.progress, f"{root}/jobs/{job.id}"
    return JobStatus(
        id=job.id,
        status=job.state,
        model=job.about.model,
        created=int(job.created),
        progress=progress.fraction,
        step=int(progress.fraction * steps),
        steps=steps,
        queue_position=progress.queue_position,
        eta_ms=progress.eta_ms,
        params={**job.about.params},
        error=None if job.error is None else Problem.model_validate(problem_body(job.id, job.error)),
        urls=JobUrls(self=path, result=f"{path}/result", events=f"{path}/events", cancel=f"{path}/cancel"),
    )


async def _accepted(job: AnyJob, root: str) -> Response:
    status = await status_of(job, root)
    headers = {"Location": status.urls.self, "Cache-Control": "no-store"}
    return JSONResponse(status.model_dump(mode="json"), 202, headers)
