"""GET /jobs and what is below it: jobs that are asked about, read, listened to and given up by their id.

Whoever knows the id, which nobody can guess, may do so.
"""

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.request.body import MAX_ECHO
from service.api.request.negotiation import EVENT_STREAM, JSON
from service.api.request.response_mode import wait_of
from service.api.response.documented import EVENT, EVENT_HEADERS, IMAGE_HEADERS, NO_LATER_EVENTS, image_content
from service.api.response.event_stream import EventStream
from service.api.response.reproduce import root_of
from service.api.response.respond import result, status_of, wait_for
from service.api.response.run import client_of
from service.api.response.schemas import JobList, JobStatus
from service.api.state import PictureJob, state_of
from service.errors import BadRequest

#: Most jobs in one list.
LISTED = 100

_NO_STORE = {"Cache-Control": "no-store"}


async def list_jobs(request: Request) -> Response:
    """The latest 100 jobs of the client, which is an address: behind a proxy that is not trusted all have one.

    A job is made by a request with `Prefer: respond-async`, and by an answer as events.
    """
    state = state_of(request)
    own = state.jobs.of(client_of(request), LISTED)
    return _json(JobList(jobs=[status_of(job, root_of(request)) for job in own]))


async def get_job(request: Request) -> Response:
    """How far a job is.

    A job that ended is kept for ten minutes, or until newer ones need its room; then it is 404 `job-expired`.
    """
    return _json(status_of(_job(request), root_of(request)))


async def get_job_result(request: Request) -> Response:
    """What a job made, in the format that Accept wants, else the one that it was asked for in.

    409 while there is nothing yet, after as long as `Prefer: wait=10` says; the error that a failed job ended with;
    410 of a canceled one.
    """
    job = _job(request)
    wait_s = wait_of(request)
    if wait_s and not job.done:
        await wait_for(request, job, wait_s)
    return await result(request, job)


async def get_job_events(request: Request) -> Response:
    """What happens to a job, as server-sent events: those there were, then those that come.

    `queued`, `started`, `preview`, `image`, then `completed` or `error`. With Last-Event-ID only later ones; old
    previews are not kept. 204 where the last one was seen: EventSource then stops to ask.
    """
    job = _job(request)
    after = _last_event(request)
    if job.done and after >= job.log.last_id:
        return Response(status_code=204)
    return EventStream(job, own=False, after=after)


async def cancel_job(request: Request) -> Response:
    """Give a job up: its work stops at the next step. One that has ended stays as it is."""
    job = _job(request)
    job.cancel()
    return _json(status_of(job, root_of(request)))


async def delete_job(request: Request) -> Response:
    """Forget a job, and give it up where it has not ended. One that is gone stays so."""
    state_of(request).jobs.remove(request.path_params["id"])
    return Response(status_code=204)


_JOB = {200: Answer("The job.", {JSON: JobStatus}, ["Cache-Control"])}
_JOBS = {200: Answer("The jobs.", {JSON: JobList}, ["Cache-Control"])}
_RESULT = {200: Answer("The images.", image_content(), IMAGE_HEADERS)}
_EVENTS = {200: Answer("Events.", {EVENT_STREAM: EVENT}, EVENT_HEADERS), 204: NO_LATER_EVENTS}

ROUTES = (
    route("/jobs", {"GET": Operation(list_jobs, "jobs", _JOBS)}),
    route(
        "/jobs/{id}",
        {
            "GET": Operation(get_job, "jobs", _JOB, [404]),
            "DELETE": Operation(delete_job, "jobs", {204: Answer("It is gone.")}, [404]),
        },
    ),
    route(
        "/jobs/{id}/result",
        {"GET": Operation(get_job_result, "jobs", _RESULT, [404, 406, 409, 410, 422, 504], headers=["Prefer"])},
    ),
    route(
        "/jobs/{id}/events",
        {"GET": Operation(get_job_events, "jobs", _EVENTS, [400, 404], headers=["Last-Event-ID"])},
    ),
    route("/jobs/{id}/cancel", {"POST": Operation(cancel_job, "jobs", _JOB, [404])}),
)


def _job(request: Request) -> PictureJob:
    return state_of(request).jobs.get(request.path_params["id"])


def _last_event(request: Request) -> int:
    """The number of the last event that the client has seen, 0 where the header is empty. Raises BadRequest."""
    last = request.headers.get("last-event-id") or "0"
    if not (last.isascii() and last.isdigit() and len(last) < 10):
        raise BadRequest(f"Last-Event-ID is the id of an event, not {last[:MAX_ECHO]!r}.")
    return int(last)


def _json(answer: BaseModel) -> Response:
    return JSONResponse(answer.model_dump(mode="json"), headers=_NO_STORE)
