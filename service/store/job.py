"""One job as its sender sees it: state, progress, events, result."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from pydantic_core import to_json

from service.errors import JobCanceled, ServiceError
from service.store.events import EventListener, EventLog

State = Literal["queued", "running", "succeeded", "failed", "canceled"]

Work = TypeVar("Work")
Result = TypeVar("Result")
Shown = TypeVar("Shown", covariant=True)

#: Limits of the previews and queue positions that a job keeps for replay.
TRANSIENT_EVENTS = 128
TRANSIENT_BYTES = 262_144


#: Approximate size of a job without its fields, events and result.
RECORD_BYTES = 2048


def _nothing() -> None:
    pass


class JobProgress(NamedTuple):
    """Fraction that is done, 0 to 1; pictures of other requests before its next one; milliseconds left, if known."""

    fraction: float = 0.0
    queue_position: int = 0
    eta_ms: float | None = None


class About(NamedTuple):
    """What every process can tell of a job: plain data.

    ``steps`` of each picture, 0 without any; ``seeds`` with None for a picture that no seed alone reproduces;
    ``params`` are the fields that reproduce the pictures; ``dialect`` is the API that was asked, "" the service's own.
    """

    model: str
    version: str
    steps: int
    seeds: Sequence[int | None]
    params: Mapping[str, Any]
    dialect: str = ""


def size_of(about: About) -> int:
    """Bytes that ``about`` holds, roughly."""
    return len(to_json(about.params))


class JobView(Protocol[Shown]):
    """A job as every process sees it, whichever computes it. Attributes may be old until ``refresh`` or ``wait``."""

    @property
    def id(self) -> str:
        """Random; knowing it is the permission to read the job."""

    @property
    def created(self) -> float:
        """Seconds since 1970."""

    @property
    def about(self) -> About:
        """Model, steps, seeds and fields."""

    @property
    def state(self) -> State:
        """The state."""

    @property
    def progress(self) -> JobProgress:
        """The progress."""

    @property
    def error(self) -> ServiceError | None:
        """The error of a job that failed or was cancelled."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    @property
    def last_event(self) -> int:
        """Id of the last event, 0 without one."""

    async def refresh(self) -> None:
        """Update state and progress."""

    async def wait(self, within_s: float) -> bool:
        """Whether the job ends within ``within_s`` seconds, or has ended."""

    async def output(self) -> Shown | None:
        """The result of a job that succeeded; None for any other."""

    def listen(self, after: int = 0) -> EventListener:
        """A reader of the events after event ``after``, kept and future ones."""


class Job(Generic[Work, Result]):
    """``work`` of ``client``: queued, running, then one of succeeded, failed and canceled, which is final.

    It lives in the process that computes it. Calls after the end change nothing. Events: queued (transient), started,
    preview (transient), image, and last one of completed and error; their ids continue after ``last_event``.
    """

    def __init__(self, id: str, client: str, work: Work, about: About, created: float, last_event: int = 0) -> None:
        self.id, self.client, self.work, self.about, self.created = id, client, work, about, created
        self.state: State = "queued"
        self.progress = JobProgress()
        self.result: Result | None = None
        self.error: ServiceError | None = None
        self.log = EventLog(TRANSIENT_EVENTS, TRANSIENT_BYTES, last_event)
        #: Updates ``state`` and ``progress`` before they are read; set by the code that computes the job.
        self.look: Callable[[], None] = _nothing
        #: The task that computes the job, held here because the event loop keeps no reference to tasks.
        self.task: object = None
        #: Approximate number of bytes that it holds without events and result.
        self.own_size = RECORD_BYTES + size_of(about)
        self._ended = asyncio.Event()
        self._on_end: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("succeeded", "failed", "canceled")

    @property
    def size(self) -> int:
        """Approximate number of bytes that the job holds."""
        return self.own_size + self.log.size

    @property
    def last_event(self) -> int:
        """Id of the last event, or of the last one before this log began; 0 without one."""
        return self.log.last_id

    def listen(self, after: int = 0) -> EventListener:
        """A reader of the events after event ``after``, kept and future ones."""
        return self.log.listen(after)

    async def refresh(self) -> None:
        """Update state and progress."""
        self.look()

    async def output(self) -> Result | None:
        """The result of a job that succeeded."""
        return self.result

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

    def replace_work(self, work: Work, about: About) -> None:
        """Replace ``work`` once its uploads are decoded, and its description."""
        if not self.done:
            self.work, self.about, self.own_size = work, about, RECORD_BYTES + size_of(about)

    def update_progress(self, progress: JobProgress) -> None:
        """Set the progress; a new position in the queue is an event."""
        if self.done:
            return
        if self.state == "queued" and (not len(self.log) or progress.queue_position != self.progress.queue_position):
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
        self.look = _nothing
        self._ended.set()
        calls, self._on_end = self._on_end, []
        for call in calls:
            call()
