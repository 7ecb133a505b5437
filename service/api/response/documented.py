"""How the answers of the operations that compute images look in the OpenAPI document."""

from collections.abc import Sequence
from typing import Any

from service.api.http.openapi import BINARY, Answer, Content, Handler, Operation
from service.api.request.negotiation import EVENT_STREAM, JSON, PICTURES
from service.api.request.schemas import Task
from service.api.response.schemas import JobStatus, PicturesAnswer

#: Headers of every answer with images.
_ABOUT = ("X-Model", "X-Model-Version", "X-Seed", "Vary", "Cache-Control")
IMAGE_HEADERS = (*_ABOUT, "Server-Timing", "Content-Disposition")
EVENT_HEADERS = (*_ABOUT, "X-Accel-Buffering")
#: Statuses of everything that computes images.
COMPUTE_ERRORS = (404, 422, 429, 500, 503, 504)
#: Statuses of every request with a body.
BODY_ERRORS = (400, 408, 413)

#: One of the events of a stream.
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": JSON},
    },
}

NOT_MODIFIED = Answer(
    "The cached response named by If-None-Match is still current.", {}, ("ETag", "Cache-Control", "Vary")
)
NO_LATER_EVENTS = Answer("There are no events after Last-Event-ID.")


def image_content(formats: Sequence[str] = PICTURES) -> Content:
    """Images in each of ``formats``."""
    return {media: PicturesAnswer if media == JSON else BINARY for media in formats}


def image_operation(
    handler: Handler,
    formats: Sequence[str] = PICTURES,
    *,
    body: Sequence[type[Any]] = (),
    query: type[Task] | None = None,
    example: dict[str, Any] | None = None,
) -> Operation:
    """An operation that computes images, answered when they are done, as events, or as a job."""
    replayed = ("Idempotent-Replayed",) if body else ()
    headers = (*IMAGE_HEADERS, "X-Accel-Buffering", "Preference-Applied", *replayed, *(("ETag",) if query else ()))
    job = Answer(
        "A job, whose URL is in Location: what Prefer asks for.",
        {JSON: JobStatus},
        ("Location", "Cache-Control", "Preference-Applied", *replayed),
    )
    answers = {
        200: Answer("The images, or events.", {**image_content(formats), EVENT_STREAM: EVENT}, headers),
        202: job,
        204: NO_LATER_EVENTS,
    }
    return Operation(
        handler,
        answers={**answers, **({304: NOT_MODIFIED} if query else {})},
        errors=(*BODY_ERRORS, 406, 409, 410, 415, *COMPUTE_ERRORS),
        body=body,
        query=query,
        headers=("Prefer", "Last-Event-ID", "Idempotency-Key" if body else "If-None-Match"),
        example=example,
    )
