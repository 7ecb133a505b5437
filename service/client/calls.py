"""All calls: the request, and how its response is read."""

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
    """One request, which may be sent again, and ``read``, which turns a successful response into the result.

    With ``streams``, only the head of the response was read.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    json: Body | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    streams: bool = False


def models() -> Call[list[Model]]:
    """All models that are served."""
    return Call("GET", "/models", _reader(list[Model]))


def model(name: str) -> Call[Model]:
    """One model."""
    return Call("GET", f"/models/{_quoted(name)}", _reader(Model))


def health() -> Call[Health]:
    """Whether the service works."""
    return Call("GET", "/health", _reader(Health))


def generate(name: str, fields: Mapping[str, Any]) -> Call[Generation]:
    """Generate pictures."""
    return Call("POST", f"/generate/{_quoted(name)}", _reader(Generation), generate_body(fields), headers=_JSON)


def interpolate(name: str, points: Sequence[int | Upload | Point], fields: Mapping[str, Any]) -> Call[Generation]:
    """Generate the pictures along a path."""
    return Call("POST", "/interpolate", _reader(Generation), path_body(name, points, fields), headers=_JSON)


def encode(name: str, images: Sequence[Upload], fields: Mapping[str, Any]) -> Call[Generation]:
    """Encode and reconstruct pictures."""
    body = on_the_wire({"image": images, **fields})
    return Call("POST", f"/encode/{_quoted(name)}", _reader(Generation), body, headers=_JSON)


def inspect(png: bytes) -> Call[Inspection]:
    """Read how a PNG was generated."""
    return Call("POST", "/inspect", _reader(Inspection), content=png)


def streamed(call: Call[Any]) -> Call[httpx.Response]:
    """``call`` with events as the response."""
    return Call(call.method, call.path, _itself, call.json, headers=_EVENTS, streams=True)


def submitted(call: Call[Any], format: Format | None) -> Call[JobStatus]:
    """``call`` as a job; ``format`` is the default format of its result."""
    assert call.json is not None
    body = call.json if format is None else {**call.json, "format": format}
    headers = {"Prefer": "respond-async", "Idempotency-Key": uuid4().hex}
    return Call(call.method, call.path, _reader(JobStatus), body, headers=headers)


def job(id: str) -> Call[JobStatus]:
    """State and progress of a job."""
    return Call("GET", f"/jobs/{_quoted(id)}", _reader(JobStatus))


def job_result(id: str) -> Call[Generation]:
    """The pictures of an ended job."""
    return Call("GET", f"/jobs/{_quoted(id)}/result", _reader(Generation), headers=_JSON)


def job_file(id: str, format: Format | None) -> Call[File]:
    """The same as a file, in the format that was submitted unless ``format`` is given."""
    headers = {} if format is None else {"Accept": MEDIA[format]}
    return Call("GET", f"/jobs/{_quoted(id)}/result", read_file, headers=headers)


def job_events(id: str) -> Call[httpx.Response]:
    """The events of a job."""
    return Call("GET", f"/jobs/{_quoted(id)}/events", _itself, headers=_EVENTS, streams=True)


def cancel(id: str) -> Call[JobStatus]:
    """Cancel a job."""
    return Call("POST", f"/jobs/{_quoted(id)}/cancel", _reader(JobStatus))


def _reader(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda response: read_json(kind, response.content)


def _itself(response: httpx.Response) -> httpx.Response:
    return response


def _quoted(name: str) -> str:
    """``name`` as part of a path. A lone surrogate, from an argument that is not UTF-8, matches no model."""
    return quote(name, safe="", errors="surrogatepass")
