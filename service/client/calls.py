"""Every call: what is sent, and how its answer is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx

from service.client.fields import Body, Format, Point, Upload, generate_body, on_the_wire, path_body
from service.client.results import (
    File,
    Generation,
    Health,
    Inspection,
    JobStatus,
    Model,
    read_file,
    read_json,
)

T = TypeVar("T")

MEDIA: Mapping[Format, str] = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "npy": "application/x-npy",
    "zip": "application/zip",
    "json": "application/json",
}
_JSON = {"Accept": "application/json"}
_EVENTS = {"Accept": "text/event-stream"}


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and ``read``, which makes of a success what the caller wants. It may be sent again.

    Of one that ``streams`` only the head of a success is there to be read.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    json: Body | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    streams: bool = False


def models() -> Call[list[Model]]:
    """Every model that is served."""
    return Call("GET", "/models", _reader(list[Model]))


def model(name: str) -> Call[Model]:
    """One model."""
    return Call("GET", f"/models/{_quoted(name)}", _reader(Model))


def health() -> Call[Health]:
    """Whether the service works."""
    return Call("GET", "/health", _reader(Health))


def generate(name: str, fields: Mapping[str, Any]) -> Call[Generation]:
    """Pictures."""
    return Call("POST", f"/generate/{_quoted(name)}", _reader(Generation), generate_body(fields), headers=_JSON)


def interpolate(name: str, points: Sequence[int | Upload | Point], fields: Mapping[str, Any]) -> Call[Generation]:
    """The pictures along a path."""
    return Call("POST", "/interpolate", _reader(Generation), path_body(name, points, fields), headers=_JSON)


def encode(name: str, images: Sequence[Upload], fields: Mapping[str, Any]) -> Call[Generation]:
    """What the model makes of pictures that are sent."""
    body = on_the_wire({"image": images, **fields})
    return Call("POST", f"/encode/{_quoted(name)}", _reader(Generation), body, headers=_JSON)


def inspect(png: bytes) -> Call[Inspection]:
    """What a PNG says of itself."""
    return Call("POST", "/inspect", _reader(Inspection), content=png)


def streamed(call: Call[Any]) -> Call[httpx.Response]:
    """``call`` answered with events."""
    return Call(call.method, call.path, _itself, call.json, headers=_EVENTS, streams=True)


def submitted(call: Call[Any], format: Format | None) -> Call[JobStatus]:
    """``call`` as a job, whose pictures have the form ``format`` unless they are asked for in another one."""
    assert call.json is not None
    body = call.json if format is None else {**call.json, "format": format}
    headers = {"Prefer": "respond-async", "Idempotency-Key": uuid4().hex}
    return Call(call.method, call.path, _reader(JobStatus), body, headers=headers)


def job(id: str) -> Call[JobStatus]:
    """How far a job is."""
    return Call("GET", f"/jobs/{_quoted(id)}", _reader(JobStatus))


def job_result(id: str) -> Call[Generation]:
    """The pictures of a job that has ended."""
    return Call("GET", f"/jobs/{_quoted(id)}/result", _reader(Generation), headers=_JSON)


def job_file(id: str, format: Format | None) -> Call[File]:
    """The same as a file, of the form that the job was submitted with unless ``format`` is given."""
    headers = {} if format is None else {"Accept": MEDIA[format]}
    return Call("GET", f"/jobs/{_quoted(id)}/result", read_file, headers=headers)


def job_events(id: str) -> Call[httpx.Response]:
    """What happens to a job."""
    return Call("GET", f"/jobs/{_quoted(id)}/events", _itself, headers=_EVENTS, streams=True)


def cancel(id: str) -> Call[JobStatus]:
    """Give a job up."""
    return Call("POST", f"/jobs/{_quoted(id)}/cancel", _reader(JobStatus))


def _reader(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda response: read_json(kind, response.content)


def _itself(response: httpx.Response) -> httpx.Response:
    return response


def _quoted(name: str) -> str:
    """``name`` as part of a path; half a surrogate, as of an argument that is not UTF-8, is no name of a model."""
    return quote(name, safe="", errors="surrogatepass")
