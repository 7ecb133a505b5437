"""The client for asyncio programs; `blocking` has the same methods."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
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
    key_header,
    named_failures,
    request_of,
    timeouts,
    usable_environment,
)

T = TypeVar("T")


class AsyncClient:
    """The service at ``url`` (absent: ``GENSERVE_URL``, else http://127.0.0.1:8000), used as a context manager.

    ``api_key`` (absent: ``GENSERVE_API_KEY``, if it is set) is sent with every request.
    Every method raises GenserveError: Refused, Unreachable, UnexpectedAnswer or Unsendable. ``timeout_s`` limits the
    silence of the service. A missing seed is drawn here, so that a retry requests the same pictures. Proxies are taken
    from the environment, but not for this machine's own addresses. Raises ValueError if ``url`` is invalid, or the
    environment's proxies or TLS files cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 90.0,
        retries: Retries = Retries(),  # noqa: B008  (frozen)
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.retries = retries
        base = base_url(url)
        with usable_environment():
            # With a transport of its own, httpx ignores the proxies of the environment.
            direct = httpx.AsyncHTTPTransport() if transport is None and is_loopback(base) else transport
            headers = key_header(api_key)
            self._http = httpx.AsyncClient(
                base_url=base, headers=headers, timeout=timeouts(timeout_s), transport=direct
            )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[Model]:
        """All models that are served."""
        return await self.send(calls.models())

    async def model(self, name: str) -> Model:
        """One model."""
        return await self.send(calls.model(name))

    async def health(self) -> Health:
        """Whether the service works, and which models failed to load."""
        return await self.send(calls.health())

    async def generate(self, model: str, **fields: Unpack[GenerateFields]) -> Generation:
        """Generate ``fields["n"]`` pictures, by default one."""
        return await self.send(calls.generate(model, fields))

    async def interpolate(self, model: str, *points: int | Upload | Point, **fields: Unpack[PathFields]) -> Generation:
        """Generate the frames of a path through 2 to 8 ``points``: seeds, pictures to upload, or Points."""
        return await self.send(calls.interpolate(model, points, fields))

    async def encode(self, model: str, *images: Upload, **fields: Unpack[EncodeFields]) -> Generation:
        """Encode up to 8 pictures; the result has their ``codes``, and in ``images`` the reconstructions."""
        return await self.send(calls.encode(model, images, fields))

    async def inspect(self, png: bytes) -> Inspection:
        """Read from a PNG of the service how it was generated, and how to generate it again."""
        return await self.send(calls.inspect(png))

    def stream(self, model: str, **fields: Unpack[GenerateFields]) -> AsyncGenerator[Event, None]:
        """Generate pictures and yield events meanwhile. Closing it (``contextlib.aclosing``) cancels the work."""
        return self.listen(calls.streamed(calls.generate(model, fields)))

    async def submit(self, model: str, *, format: Format | None = None, **fields: Unpack[GenerateFields]) -> "AsyncJob":
        """Generate pictures as a job, which survives a broken connection. ``format`` is that of ``AsyncJob.file``."""
        status = await self.send(calls.submitted(calls.generate(model, fields), format))
        return AsyncJob(self, status.id)

    async def submit_path(
        self,
        model: str,
        *points: int | Upload | Point,
        format: Format | None = None,
        **fields: Unpack[PathFields],
    ) -> "AsyncJob":
        """The same for a path."""
        status = await self.send(calls.submitted(calls.interpolate(model, points, fields), format))
        return AsyncJob(self, status.id)

    def job(self, id: str) -> "AsyncJob":
        """A job that was submitted before."""
        return AsyncJob(self, id)

    async def send(self, call: Call[T]) -> T:
        """Send ``call``, with retries, and return its result."""
        return await self.run(perform(call, self.retries))

    async def run(self, conversation: Conversation[T]) -> T:
        """Carry out the steps of ``conversation`` and return its value."""
        outcome: Outcome = None
        while True:
            try:
                step = conversation.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = await self._do(step)

    async def _do(self, step: Call[Any] | Pause) -> Outcome:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        request = request_of(self._http, step)
        try:
            response = await self._http.send(request, stream=True)
            if not (step.streams and response.is_success):
                await response.aread()
        except httpx.RequestError as failure:
            return Unreachable(failure, self._http.base_url)
        return response

    async def listen(self, call: Call[httpx.Response]) -> AsyncGenerator[Event, None]:
        """The events of the response to ``call``, as they arrive."""
        response, reader = await self.send(call), EventReader()
        with named_failures(self._http):
            async with aclosing(response):
                async for line in response.aiter_lines():
                    if (event := reader.feed(line)) is not None:
                        yield event
                reader.finish()


class AsyncJob:
    """A job; anybody who knows its ``id`` may read and cancel it."""

    def __init__(self, client: AsyncClient, id: str) -> None:
        self.id = id
        self._client = client

    async def status(self) -> JobStatus:
        """Its state and progress."""
        return await self._client.send(calls.job(self.id))

    async def wait(self, on_status: OnStatus | None = None) -> JobStatus:
        """Wait for its end; ``on_status`` is called a few times per second until then."""
        return await self._client.run(await_end(self.id, self._client.retries, on_status))

    async def result(self) -> Generation:
        """Wait for its end and return its pictures. Raises Refused with the error of a failed or canceled job."""
        return await self._client.run(collect(self.id, calls.job_result(self.id), self._client.retries))

    async def file(self, format: Format | None = None) -> File:
        """The same as a file, in the format that was submitted unless ``format`` is given."""
        return await self._client.run(collect(self.id, calls.job_file(self.id, format), self._client.retries))

    def events(self) -> AsyncGenerator[Event, None]:
        """Its events, past and future."""
        return self._client.listen(calls.job_events(self.id))

    async def cancel(self) -> JobStatus:
        """Cancel it; an ended job stays as it is."""
        return await self._client.send(calls.cancel(self.id))
