"""Payloads of a job's events, and the data that clients get of them."""

import base64
from typing import Any, NamedTuple

from pydantic_core import to_json

from service import images
from service.api.http.problem import problem_body
from service.api.order import Order
from service.api.response.rendering import show_picture
from service.api.state import AnyJob, PictureJob
from service.engine.results import Preview
from service.errors import ServiceError
from service.store.events import Event
from service.store.job import Job


class PreviewEvent(NamedTuple):
    """The payload of a preview event: ``picture``, of one ``kind``, of a row before its last step."""

    preview: Preview
    kind: str
    picture: images.Pixels
    scale: int

    @property
    def pixels(self) -> int:
        """The number of pixels that encoding it takes."""
        return self.picture.size * self.scale**2


class ImageEvent(NamedTuple):
    """The payload of an image event: the picture of one row."""

    row: int
    picture: images.Pixels
    scale: int

    @property
    def pixels(self) -> int:
        """The number of pixels that encoding it takes."""
        return self.picture.size * self.scale**2


def event_json(job: AnyJob | PictureJob, event: Event) -> bytes:
    """The data of ``event``; an event of another process is encoded already."""
    payload = event.payload
    return payload if isinstance(payload, bytes) else to_json(_object(job, payload))


def error_json(id: str, failure: ServiceError) -> bytes:
    """The data of the last event of job ``id``, which ends with ``failure``."""
    return to_json(problem_body(id, failure))


def _object(job: AnyJob | PictureJob, payload: object) -> Any:  # noqa: ANN401  (any JSON value)
    if isinstance(payload, ServiceError):
        return problem_body(job.id, payload)
    if isinstance(payload, ImageEvent):
        assert isinstance(job, Job)
        return show_picture(job.work, payload.row, payload.picture).model_dump()
    if isinstance(payload, PreviewEvent):
        assert isinstance(job, Job)
        return _preview(job.work, payload)
    return payload


def _preview(order: Order, event: PreviewEvent) -> dict[str, object]:
    png = images.encode_png(images.enlarge(event.picture, order.asked.scale))
    return {
        "index": event.preview.row,
        "step": event.preview.step,
        "steps": event.preview.steps,
        "t": event.preview.t,
        "kind": event.kind,
        "mime": "image/png",
        "b64_json": base64.b64encode(png).decode(),
    }
