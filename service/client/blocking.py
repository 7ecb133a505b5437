"""The client of programs that wait for each answer."""

import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, TypeVar, Unpack

import httpx

from service.client import calls
from service.client.calls import Call
from service.client.errors import Unreachable
from service.client.events import Event, EventReader
from service.client.exchange import Conversation, OnStatus, Outcome, Pause, Retries, await_end, collect, perform
from service.client.fields import EncodeFields, Format, GenerateFields, PathFields, Point, Upload
from service.client.results import File, Generation, Health, Inspection, JobStatus, Model
from service.client.target import (
    base_url,
    is_loopback,
    named_failures,
    request_of,
    timeouts,
    usable_environment,
)

T = TypeVar("T")


class Client:
    """The service at ``url`` (absent: ``GENSERVE_URL``, else http://127.0.0.1:8000), used as a context manager.

    Every method raises GenserveError: Refused, Unreachable, UnexpectedAnswer or Unsendable. ``timeout_s`` is how long
    an answer may keep silent. A seed that the caller does not give is drawn here, so that a call tried again asks for
    the same. Proxies are those of the environment, none for this machine's own addresses. Raises ValueError where
    ``url`` is no address, or the environment's proxies or TLS files cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 90.0,
        retries: Retries = Retries(),  # noqa: B008  (frozen)
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.retries = retries
        base = base_url(url)
        with usable_environment():
            # httpx asks no proxy of the environment where it is given a transport.
            direct = httpx.HTTPTransport() if transport is None and is_loopback(base) else transport
            self._http = httpx.Client(base_url=base, timeout=timeouts(timeout_s), transport=direct)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def models(self) -> list[Model]:
        """Every model that is served."""
        return self.send(calls.models())

    def model(self, name: str) -> Model:
        """One model."""
        return self.send(calls.model(name))

    def health(self) -> Health:
        """Whether the service works, and which models it refused."""
        return self.send(calls.health())

    def generate(self, model: str, **fields: Unpack[GenerateFields]) -> Generation:
        """Make ``fields["n"]`` pictures, one if absent."""
        return self.send(calls.generate(model, fields))

    def interpolate(self, model: str, *points: int | Upload | Point, **fields: Unpack[PathFields]) -> Generation:
        """Make the frames of a path through 2 to 8 ``points``: seeds, pictures to send, or Points."""
        return self.send(calls.interpolate(model, points, fields))

    def encode(self, model: str, *images: Upload, **fields: Unpack[EncodeFields]) -> Generation:
        """Encode up to 8 pictures: ``codes``, and in ``images`` what the model makes of those again."""
        return self.send(calls.encode(model, images, fields))

    def inspect(self, png: bytes) -> Inspection:
        """What a PNG of the service says of itself, and what makes it again."""
        return self.send(calls.inspect(png))

    def stream(self, model: str, **fields: Unpack[GenerateFields]) -> Generator[Event, None, None]:
        """Make pictures, and tell of them meanwhile. Leaving the loop gives the work up."""
        return self.listen(calls.streamed(calls.generate(model, fields)))

    def submit(self, model: str, *, format: Format | None = None, **fields: Unpack[GenerateFields]) -> "Job":
        """Have pictures made, whatever becomes of the connection. ``format`` is that of ``Job.file``."""
        status = self.send(calls.submitted(calls.generate(model, fields), format))
        return Job(self, status.id)

    def submit_path(
        self,
        model: str,
        *points: int | Upload | Point,
        format: Format | None = None,
        **fields: Unpack[PathFields],
    ) -> "Job":
        """The same of a path."""
        status = self.send(calls.submitted(calls.interpolate(model, points, fields), format))
        return Job(self, status.id)

    def job(self, id: str) -> "Job":
        """A job that was submitted before."""
        return Job(self, id)

    def send(self, call: Call[T]) -> T:
        """What ``call`` gives."""
        return self.run(perform(call, self.retries))

    def run(self, conversation: Conversation[T]) -> T:
        """Do what ``conversation`` wants until it is over."""
        outcome: Outcome = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = self._do(step)

    def _do(self, step: Call[Any] | Pause) -> Outcome:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        request = request_of(self._http, step)
        try:
            response = self._http.send(request, stream=True)
            if not (step.streams and response.is_success):
                response.read()
        except httpx.RequestError as failure:
            return Unreachable(failure, self._http.base_url)
        return response

    def listen(self, call: Call[httpx.Response]) -> Generator[Event, None, None]:
        """The events that ``call`` is answered with, as they come."""
        response, reader = self.send(call), EventReader()
        with named_failures(self._http), closing(response):
            for line in response.iter_lines():
                if (event := reader.feed(line)) is not None:
                    yield event
            reader.finish()


class Job:
    """Pictures that are being made for whoever knows ``id``."""

    def __init__(self, client: Client, id: str) -> None:
        self.id = id
        self._client = client

    def status(self) -> JobStatus:
        """How far it is."""
        return self._client.send(calls.job(self.id))

    def wait(self, on_status: OnStatus | None = None) -> JobStatus:
        """Return when it has ended; ``on_status`` is called a few times a second until then."""
        return self._client.run(await_end(self.id, self._client.retries, on_status))

    def result(self) -> Generation:
        """Its pictures, when it has ended. Raises Refused with what a failed or canceled job ended with."""
        return self._client.run(collect(self.id, calls.job_result(self.id), self._client.retries))

    def file(self, format: Format | None = None) -> File:
        """The same as a file, of the form that it was submitted with unless ``format`` is given."""
        return self._client.run(collect(self.id, calls.job_file(self.id, format), self._client.retries))

    def events(self) -> Generator[Event, None, None]:
        """What happened to it, and what happens."""
        return self._client.listen(calls.job_events(self.id))

    def cancel(self) -> JobStatus:
        """Give it up; one that has ended stays as it is."""
        return self._client.send(calls.cancel(self.id))
