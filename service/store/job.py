"""One job as its sender sees it: state, progress, events, result."""

import asyncio
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeVar

from service.errors import JobCanceled, ServiceError
from service.store.events import EventLog

State = Literal["queued", "running", "succeeded", "failed", "canceled"]

Work = TypeVar("Work")
Result = TypeVar("Result")

#: Limits of the previews and queue positions that a job keeps for replay.
TRANSIENT_EVENTS = 128
TRANSIENT_BYTES = 262_144


def _nothing() -> None:
    pass


#: Approximate size of a job without its events.
RECORD_BYTES = 2048


class JobProgress(NamedTuple):
    """Fraction that is done, 0 to 1; pictures of other requests before its next one; milliseconds left, if known."""

    fraction: float = 0.0
    queue_position: int = 0
    eta_ms: float | None = None


class Job(Generic[Work, Result]):
    """``work`` of ``client``: queued, running, then one of succeeded, failed and canceled, which is final.

    Calls after the end change nothing. Events: queued (transient), started, preview (transient), image, and last one of
    completed and error. ``created`` is in seconds since 1970; ``size`` is the number of bytes that ``work`` holds.
    """

    def __init__(self, id: str, client: str, work: Work, created: float, size: int = 0) -> None:
        self.id, self.client, self.work, self.created = id, client, work, created
        self.state: State = "queued"
        self.progress = JobProgress()
        self.result: Result | None = None
        self.error: ServiceError | None = None
        self.log = EventLog(TRANSIENT_EVENTS, TRANSIENT_BYTES)
        #: Updates ``state`` and ``progress`` before they are read; set by the code that computes the job.
        self.refresh: Callable[[], None] = _nothing
        #: The task that computes the job, held here because the event loop keeps no reference to tasks.
        self.task: object = None
        self._own_size = RECORD_BYTES + size
        self._ended = asyncio.Event()
        self._on_end: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("succeeded", "failed", "canceled")

    @property
    def size(self) -> int:
        """Approximate number of bytes that the job holds."""
        return self._own_size + self.log.size

    def on_end(self, call: Callable[[], None]) -> None:
        """Call ``call`` once, at the end."""
        self._on_end.append(call)

    async def wait(self, within_s: float) -> bool:
        """Whether the job ends within ``within_s`` seconds, or has ended."""
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            return self.done
        return True

    def replace_work(self, work: Work, size: int) -> None:
        """Replace ``work`` once its uploads are decoded; it now holds ``size`` bytes."""
        if not self.done:
            self.work, self._own_size = work, RECORD_BYTES + size

    def update_progress(self, progress: JobProgress) -> None:
        """Set the progress; a new position in the queue is an event."""
        if self.done:
            return
        if self.state == "queued" and (not self.log.last_id or progress.queue_position != self.progress.queue_position):
            place = {"id": self.id, "queue_position": progress.queue_position, "eta_ms": progress.eta_ms}
            self.log.add("queued", place, transient=True)
        self.progress = progress

    def mark_running(self) -> None:
        """Note that the first picture is being computed."""
        if self.state == "queued":
            self.state = "running"
            self.log.add("started", {"id": self.id})

    def add_preview(self, payload: object, size: int) -> None:
        """Add a preview of a picture."""
        if not self.done:
            self.mark_running()
            self.log.add("preview", payload, size, transient=True)

    def add_image(self, payload: object, size: int) -> None:
        """Add a finished picture."""
        if not self.done:
            self.mark_running()
            self.log.add("image", payload, size)

    def succeed(self, result: Result, payload: object, size: int) -> None:
        """End with all pictures."""
        if not self.done:
            self.mark_running()
            self.result = result
            self.progress = JobProgress(1.0, 0, 0.0)
            self._end("succeeded", "completed", payload, size)

    def fail(self, error: ServiceError) -> None:
        """End with an error."""
        if not self.done:
            self.error = error
            self._end("failed", "error", error)

    def cancel(self) -> None:
        """End without a result, at the sender's request."""
        if not self.done:
            self.error = JobCanceled(self.id)
            self._end("canceled", "error", self.error)

    def _end(self, state: State, name: str, payload: object, size: int = 0) -> None:
        self.state = state
        self.progress = self.progress._replace(queue_position=0, eta_ms=0.0)
        self.log.add(name, payload, size)
        self.log.end()
        self.refresh = _nothing
        self._ended.set()
        calls, self._on_end = self._on_end, []
        for call in calls:
            call()
