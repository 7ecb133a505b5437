"""/jobs: list, read, follow, cancel and delete jobs.

The id of a job is random and serves as its access token.
"""

from functools import partial

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.request.body import MAX_ECHO
from service.api.request.negotiation import EVENT_STREAM, JSON
from service.api.request.response_mode import wait_of
from service.api.response.documented import (
    COMPUTE_ERRORS,
    EVENT,
    EVENT_HEADERS,
    IMAGE_HEADERS,
    NO_LATER_EVENTS,
    image_content,
)
from service.api.response.event_stream import EventStream
from service.api.response.job_answers import result, status_of, wait_for
from service.api.response.reproduce import root_of
from service.api.response.schemas import JobList, JobStatus
from service.api.state import AnyJob, client_of, state_of
from service.errors import BadRequest, StreamsFull

#: Maximum number of jobs in a list.
LISTED = 100

_NO_STORE = {"Cache-Control": "no-store"}


async def list_jobs(request: Request) -> Response:
    """List the latest 100 jobs of the client: of its API key, else of its address, which an untrusted proxy hides.

    A request with `Prefer: respond-async`, or answered with events, creates a job.
    """
    state = state_of(request)
    own = await state.jobs.of(client_of(request), LISTED)
    return _json(JobList(jobs=[await status_of(job, root_of(request)) for job in own]))


async def get_job(request: Request) -> Response:
    """Status and progress of a job.

    An ended job is kept for ten minutes, or until newer ones need its space; then the answer is 404 `job-expired`.
    """
    return _json(await status_of(await _job(request), root_of(request)))


async def get_job_result(request: Request) -> Response:
    """Images of a job, in the format of Accept, else in the one that was requested.

    409 while there is no result, after the seconds of `Prefer: wait=10`; the error of a failed job; 410 if it was
    canceled.
    """
    job = await _job(request)
    wait_s = wait_of(request)
    if wait_s and not job.done:
        await wait_for(request, job, wait_s)
    return await result(request, job)


async def get_job_events(request: Request) -> Response:
    """Events of a job as server-sent events, past ones first.

    `queued`, `started`, `preview`, `image`, then `completed` or `error`. With Last-Event-ID only later ones; old
    previews are not kept. 204 after the last event, so that EventSource stops reconnecting. 429 while the client
    follows too many jobs.
    """
    job = await _job(request)
    after = _last_event(request)
    if job.done and after >= job.last_event:
        return Response(status_code=204)
    streams, client = state_of(request).streams, client_of(request)
    if streams.full(client):
        raise StreamsFull(streams.most)
    return EventStream(job, after=after, while_open=partial(streams.following, client))


async def cancel_job(request: Request) -> Response:
    """Cancel a job: its work stops at the next step. An ended job stays as it is."""
    job = await state_of(request).jobs.cancel(request.path_params["id"])
    return _json(await status_of(job, root_of(request)))


async def delete_job(request: Request) -> Response:
    """Delete a job, and cancel it if it is running. Deleting it again has no effect."""
    await state_of(request).jobs.remove(request.path_params["id"])
    return Response(status_code=204)


_JOB = {200: Answer("The job.", {JSON: JobStatus}, ["Cache-Control"])}
_JOBS = {200: Answer("The jobs.", {JSON: JobList}, ["Cache-Control"])}
_RESULT = {200: Answer("The images.", image_content(), IMAGE_HEADERS)}
#: Those of reading the job, and of its request: the pictures in it are decoded while the job runs.
_RESULT_ERRORS = (400, 406, 409, 410, 413, 415, *COMPUTE_ERRORS)
_EVENTS = {200: Answer("Events.", {EVENT_STREAM: EVENT}, EVENT_HEADERS), 204: NO_LATER_EVENTS}

ROUTES = (
    route("/jobs", {"GET": Operation(list_jobs, "jobs", _JOBS, [503])}),
    route(
        "/jobs/{id}",
        {
            "GET": Operation(get_job, "jobs", _JOB, [404, 503]),
            "DELETE": Operation(delete_job, "jobs", {204: Answer("The job is deleted.")}, [404, 503]),
        },
    ),
    route(
        "/jobs/{id}/result",
        {"GET": Operation(get_job_result, "jobs", _RESULT, _RESULT_ERRORS, headers=["Prefer"])},
    ),
    route(
        "/jobs/{id}/events",
        {"GET": Operation(get_job_events, "jobs", _EVENTS, [400, 404, 429, 503], headers=["Last-Event-ID"])},
    ),
    route("/jobs/{id}/cancel", {"POST": Operation(cancel_job, "jobs", _JOB, [404, 503])}),
)


async def _job(request: Request) -> AnyJob:
    return await state_of(request).jobs.get(request.path_params["id"])


def _last_event(request: Request) -> int:
    """The id of the last event that the client received, 0 without one. Raises BadRequest."""
    last = request.headers.get("last-event-id") or "0"
    if not (last.isascii() and last.isdigit() and len(last) < 10):
        raise BadRequest(f"Last-Event-ID is the id of an event, not {last[:MAX_ECHO]!r}.")
    return int(last)


def _json(answer: BaseModel) -> Response:
    return JSONResponse(answer.model_dump(mode="json"), headers=_NO_STORE)
