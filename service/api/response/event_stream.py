"""The answer as server-sent events of a job (HTML standard, section 9.2)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.order import Order
from service.api.request.negotiation import EVENT_STREAM
from service.api.response.answers import INLINE_PIXELS
from service.api.response.job_events import ImageEvent, PreviewEvent, event_json
from service.api.response.job_runner import end_with_connection, start_job
from service.api.state import AnyJob, PictureJob, State
from service.errors import ServiceStopping
from service.request_info import Disconnect, info_of
from service.store.events import Event, EventListener

#: Seconds without an event after which a job's progress is read: its place in the queue changes without an event.
#: Progress is up to a second old, so reading it more often finds nothing new.
PROGRESS_S = 1.0

#: Seconds without an event after which a comment is sent: proxies close idle connections.
COMMENT_S = 15.0

#: Encodes an event; empty for one that is left out.
Write = Callable[[Event], bytes]


def write_event(job: AnyJob, event: Event) -> bytes:
    """``event`` with its id, its name and its JSON."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.name.encode(), event_json(job, event))


async def answer_as_events(request: Request, state: State, order: Order) -> Response:
    """Compute ``order`` and send what happens as events. Raises as ``start_job``."""
    # EventSource reconnects after the end and stops only at 204; without it the work would be done again and again.
    if request.headers.get("last-event-id"):
        return Response(status_code=204)
    job = await start_job(request, state, order, live=True)
    return EventStream(job, own=job)


class EventStream(Response):
    """The events of ``job`` after the event with id ``after``, each encoded by ``write``, until the last one.

    ``own``: the job, if it belongs to this connection and ends with it. ``while_open`` is entered while events are
    sent. ``closing`` is sent after the last event.
    """

    def __init__(
        self,
        job: AnyJob,
        *,
        own: PictureJob | None = None,
        after: int = 0,
        write: Write | None = None,
        closing: bytes = b"",
        while_open: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-store",
                "Vary": "Accept",
                "X-Accel-Buffering": "no",  # or nginx delays events
                "X-Model": job.about.model,
                "X-Model-Version": job.about.version,
                "X-Seed": ", ".join(str(seed) for seed in job.about.seeds if seed is not None),
            },
            media_type=EVENT_STREAM,
        )
        del self.headers["content-length"]
        self._job, self._own, self._after, self._closing = job, own, after, closing
        self._while_open = while_open
        self._write = write or partial(write_event, job)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (ASGI's)
        """Send events as they happen, until the last one or until the client disconnects."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                await self._send_events(info_of(scope).disconnect, send)
            await send({"type": "http.response.body", "body": self._closing, "more_body": False})
        finally:
            if self._own is not None:
                end_with_connection(self._own, info_of(scope).disconnect)

    async def _send_events(self, disconnect: Disconnect, send: Send) -> None:
        with self._while_open(), self._job.listen(self._after) as listener:
            disconnect.on_disconnect(listener.close)
            try:
                async for chunk in self._chunks(listener):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except asyncio.CancelledError:  # the server stops
                stopping = Event(self._job.last_event + 1, "error", ServiceStopping())
                await send({"type": "http.response.body", "body": self._write(stopping), "more_body": False})
                raise
            finally:
                disconnect.clear()

    async def _chunks(self, listener: EventListener) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        written_at = clock()
        while not listener.over:
            event = await listener.next(PROGRESS_S)
            if event is not None:
                yield await self._encode(event)
                written_at = clock()
                continue
            await self._job.refresh()
            if clock() - written_at >= COMMENT_S:
                yield b":\n\n"
                written_at = clock()

    async def _encode(self, event: Event) -> bytes:
        payload = event.payload
        if isinstance(payload, PreviewEvent | ImageEvent) and payload.pixels > INLINE_PIXELS:
            return await asyncio.to_thread(self._write, event)
        return self._write(event)
