"""One order, answered in any of three ways: when it is done, as events, or later."""

import asyncio
import hashlib
import math

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from service.api.http.problem import Problem, problem_body
from service.api.order import Order
from service.api.request.layout import check_form, shows_layout
from service.api.request.negotiation import JSON, PICTURES, accept_of, choose
from service.api.request.response_mode import Way
from service.api.response.answers import PicturesResponse, answer, answer_made
from service.api.response.event_stream import EventStream
from service.api.response.job_runner import leave, start_job
from service.api.response.reproduce import root_of
from service.api.response.run import client_of
from service.api.response.schemas import JobStatus, JobUrls
from service.api.state import KeptAnswer, PictureJob, State
from service.errors import JobRunning
from service.request_info import info_of
from service.store.keys import Key


async def respond(request: Request, state: State, order: Order, way: Way) -> Response:
    """Compute ``order`` and answer ``request`` in that ``way``.

    Raises as ``answers.answer``, and JobsFull, KeyInUse, KeyReused.
    """
    if way.plain:
        return await answer(request, state, order)
    if way.key is None:
        return await _respond(request, state, order, way)
    key = Key(client_of(request), way.key)
    kept = state.keyed.claim(key, _fingerprint(order, way))
    if kept is not None:
        return _replay(kept)
    try:
        response = await _respond(request, state, order, way)
    except BaseException:
        state.keyed.release(key)
        raise
    body = bytes(response.body)
    state.keyed.keep(key, KeptAnswer(response.status_code, tuple(response.raw_headers), body), len(body))
    return response


async def _respond(request: Request, state: State, order: Order, way: Way) -> Response:
    if way.wait_s is None:
        if not way.live:
            return await answer(request, state, order)
        # EventSource comes back after an end, and takes only this for a no: the work would be done over and over.
        if request.headers.get("last-event-id"):
            return Response(status_code=204)
        return EventStream(start_job(request, state, order, live=True), own=True)
    job = start_job(request, state, order, live=way.live)
    applied = f"wait={way.wait_s:g}" if way.wait_s else "respond-async"
    if way.wait_s and await _wait(request, job, way.wait_s):
        response = await result(request, job, way.media)
    else:
        status = status_of(job, root_of(request))
        response = JSONResponse(
            status.model_dump(mode="json"), 202, {"Location": status.urls.self, "Cache-Control": "no-store"}
        )
    response.raw_headers.append((b"preference-applied", applied.encode()))
    return response


async def result(request: Request, job: PictureJob, media: str | None = None) -> Response:
    """What ``job`` made, as ``media``, or as Accept wants it, or as its sender did.

    Raises:
        JobRunning: it has made nothing yet.
        ServiceError: it ended with that.
        NotAcceptable, InvalidField: it cannot be had as ``request`` wants it.
    """
    order = job.work
    if job.error is not None:
        info_of(request.scope).counted = True
        raise job.error.with_traceback(None)
    if job.result is None:
        job.look()
        raise JobRunning(job.id, job.state, max(1, math.ceil((job.standing.eta_ms or 0) / 1000)))
    media = media or choose(accept_of(request), sorted(PICTURES, key=lambda offered: offered != order.media))
    if media == JSON:
        return PicturesResponse(job.result.body, [*job.result.headers])
    if media != order.media:
        layout = order.asked.layout if shows_layout(order.asked, media) else "auto"
        plain = {"quality": None, "layout": layout, "fps": None}
        order = order._replace(media=media, asked=order.asked.model_copy(update=plain))
        check_form(order.asked, media, order.model.manifest.image_shape, order.rows[0].plan.steps)
    return await answer_made(request, order, job.result.made)


def status_of(job: PictureJob, root: str) -> JobStatus:
    """``job``, as far as it is, with its URLs below ``root``."""
    job.look()
    steps, standing, path = job.work.rows[0].plan.steps, job.standing, f"{root}/jobs/{job.id}"
    return JobStatus(
        id=job.id,
        status=job.state,
        model=job.work.model.name,
        created=int(job.created),
        progress=standing.progress,
        step=int(standing.progress * steps),
        steps=steps,
        queue_position=standing.queue_position,
        eta_ms=standing.eta_ms,
        params=job.work.params,
        error=None if job.error is None else Problem.model_validate(problem_body(job.id, job.error)),
        urls=JobUrls(self=path, result=f"{path}/result", events=f"{path}/events", cancel=f"{path}/cancel"),
    )


async def wait_for(request: Request, job: PictureJob, within_s: float) -> bool:
    """Whether ``job`` ends within ``within_s`` seconds. Raises ClientDisconnect when the client leaves before."""
    disconnect, ended = info_of(request.scope).disconnect, asyncio.ensure_future(job.wait(within_s))
    disconnect.on_disconnect(ended.cancel)
    try:
        return await ended
    except asyncio.CancelledError:
        if disconnect.closed:
            raise ClientDisconnect from None
        raise
    finally:
        disconnect.clear()
        ended.cancel()


async def _wait(request: Request, job: PictureJob, within_s: float) -> bool:
    """``wait_for`` of a client that does not know the job's id yet: the job ends when it leaves."""
    try:
        return await wait_for(request, job, within_s)
    except ClientDisconnect:
        leave(job)
        raise
    except BaseException:
        job.cancel()
        raise


def _fingerprint(order: Order, way: Way) -> bytes:
    """What tells one request from another: all that it asks for, with its defaults in."""
    asked = repr((order.path, order.asked, order.uploads and order.uploads.digest(), way.media, way.live, way.wait_s))
    return hashlib.blake2b(asked.encode(), digest_size=16).digest()


def _replay(kept: KeptAnswer) -> Response:
    response = Response(kept.body, kept.status)
    response.raw_headers = [*kept.headers, (b"idempotent-replayed", b"true")]
    return response
