"""One job as its sender sees it: its state, how far it is, and what happened to it."""

import asyncio
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeVar

from service.errors import JobCanceled, ServiceError
from service.store.events import EventLog

State = Literal["queued", "running", "succeeded", "failed", "canceled"]

Work = TypeVar("Work")
Result = TypeVar("Result")

#: Previews and places in the queue that a job keeps for replay.
TRANSIENT_EVENTS = 128
TRANSIENT_BYTES = 262_144


def _nothing() -> None:
    pass


#: What a job takes beside its events, roughly.
RECORD_BYTES = 2048


class JobProgress(NamedTuple):
    """How far a job is: the part that is done, 0 to 1; pictures of others before its next one; milliseconds to go."""

    fraction: float = 0.0
    queue_position: int = 0
    eta_ms: float | None = None


class Job(Generic[Work, Result]):
    """``work`` of ``client``, from before it begins until it is forgotten.

    It is queued, running, then one of succeeded, failed and canceled, for good: whatever comes later changes nothing.
    Its events are queued (transient), started, preview (transient), image, and one of completed and error, which is the
    last. ``created`` is in seconds since 1970.
    """

    def __init__(self, id: str, client: str, work: Work, created: float, size: int = 0) -> None:
        self.id, self.client, self.work, self.created = id, client, work, created
        self.state: State = "queued"
        self.progress = JobProgress()
        self.result: Result | None = None
        self.error: ServiceError | None = None
        self.log = EventLog(TRANSIENT_EVENTS, TRANSIENT_BYTES)
        #: Brings ``state`` and ``standing`` up to date, for whoever asks; set by what computes the job.
        self.refresh: Callable[[], None] = _nothing
        #: What computes the job, held here because the event loop holds no task.
        self.task: object = None
        self._own_size = RECORD_BYTES + size
        self._ended = asyncio.Event()
        self._on_end: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.state in ("succeeded", "failed", "canceled")

    @property
    def size(self) -> int:
        """Bytes that it keeps, roughly."""
        return self._own_size + self.log.size

    def on_end(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once, when it has ended."""
        self._on_end.append(call)

    async def wait(self, within_s: float) -> bool:
        """Whether it has ended, or does so within ``within_s`` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            return self.done
        return True

    def replace_work(self, work: Work, size: int) -> None:
        """``work`` is ready to be computed, and keeps ``size`` bytes: all that it begins from is made by now."""
        if not self.done:
            self.work, self._own_size = work, RECORD_BYTES + size

    def update_progress(self, progress: JobProgress) -> None:
        """Note how far it is; a new place in the queue is an event."""
        if self.done:
            return
        if self.state == "queued" and (not self.log.last_id or progress.queue_position != self.progress.queue_position):
            place = {"id": self.id, "queue_position": progress.queue_position, "eta_ms": progress.eta_ms}
            self.log.add("queued", place, transient=True)
        self.progress = progress

    def mark_running(self) -> None:
        """Its first picture is being computed."""
        if self.state == "queued":
            self.state = "running"
            self.log.add("started", {"id": self.id})

    def add_preview(self, payload: object, size: int) -> None:
        """How a picture looks on its way."""
        if not self.done:
            self.mark_running()
            self.log.add("preview", payload, size, transient=True)

    def add_image(self, payload: object, size: int) -> None:
        """One of its pictures is ready."""
        if not self.done:
            self.mark_running()
            self.log.add("image", payload, size)

    def succeed(self, result: Result, payload: object, size: int) -> None:
        """All of its pictures are ready."""
        if not self.done:
            self.mark_running()
            self.result = result
            self.progress = JobProgress(1.0, 0, 0.0)
            self._end("succeeded", "completed", payload, size)

    def fail(self, error: ServiceError) -> None:
        """It has no pictures, and will have none."""
        if not self.done:
            self.error = error
            self._end("failed", "error", error)

    def cancel(self) -> None:
        """Nobody wants its pictures any more."""
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
