"""GET /jobs and what is below it: jobs that are asked about, read, listened to and given up by their id.

Whoever knows the id, which nobody can guess, may do so.
"""

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.http.endpoint import route
from service.api.http.openapi import EVENT, described, inlined, picture_content, refusals
from service.api.request.body import MAX_ECHO
from service.api.request.negotiation import EVENT_STREAM, JSON
from service.api.request.response_mode import wait_of
from service.api.response.event_stream import EventStream
from service.api.response.job_answers import result, status_of, wait_for
from service.api.response.reproduce import root_of
from service.api.response.schemas import JobList, JobStatus
from service.api.state import PictureJob, client_of, state_of
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


ROUTES = (
    route("/jobs", {"GET": list_jobs}),
    route("/jobs/{id}", {"GET": get_job, "DELETE": delete_job}),
    route("/jobs/{id}/result", {"GET": get_job_result}),
    route("/jobs/{id}/events", {"GET": get_job_events}),
    route("/jobs/{id}/cancel", {"POST": cancel_job}),
)


def _operation(handler: Any, success: dict[str, Any], *statuses: int, id: bool = True) -> dict[str, Any]:  # noqa: ANN401
    parameters = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}] if id else []
    return {
        **described(handler, "jobs"),
        "parameters": parameters,
        "responses": {**success, **refusals(*([404] if id else []), *statuses, 500)},
    }


def _answers(schema: type[BaseModel], text: str) -> dict[str, Any]:
    return {"200": {"description": text, "content": {JSON: {"schema": inlined(schema.model_json_schema())}}}}


_SEEN = {"204": {"description": "There are no later events."}}
_EVENTS = {"200": {"description": "Events.", "content": {EVENT_STREAM: {"schema": EVENT}}}}
_RESULT = {"200": {"description": "The pictures.", "content": picture_content()}}

OPERATIONS = {
    "/jobs": {"get": _operation(list_jobs, _answers(JobList, "The jobs."), id=False)},
    "/jobs/{id}": {
        "get": _operation(get_job, _answers(JobStatus, "The job.")),
        "delete": _operation(delete_job, {"204": {"description": "It is gone."}}),
    },
    "/jobs/{id}/result": {"get": _operation(get_job_result, _RESULT, 406, 409, 410, 422, 503, 504)},
    "/jobs/{id}/events": {"get": _operation(get_job_events, _EVENTS | _SEEN, 400)},
    "/jobs/{id}/cancel": {"post": _operation(cancel_job, _answers(JobStatus, "The job, ended."))},
}


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
