"""All jobs: open ones, and ended ones for a limited time. The interface, and its implementation in memory."""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol

from service.errors import ClientJobsFull, JobExpired, JobsFull, ServiceError, ServiceStopping, UnknownJob
from service.store.bounded import BoundedStore, Bounds, Held
from service.store.job import Job, JobView, Result, Work

#: Number of expired ids that are remembered, for each job that the bounds allow.
GONE_PER_JOB = 8


class Interrupted(NamedTuple):
    """An open job whose process ended, to be computed again from ``recipe``; ``last_event`` is its last event's id."""

    id: str
    client: str
    model: str
    created: float
    recipe: bytes
    last_event: int
    crashes: int


class JobStore(Protocol[Work, Result]):
    """Jobs by id, bounded in number, bytes and time, of all processes that share the store.

    A ``Job`` is computed by the process that adds it; the store follows its log. Other processes get views of what the
    store keeps, which is plain data. Where room is needed, the client that holds most loses its oldest ended jobs; open
    jobs are never removed.

    Every method but ``close`` raises StoreUnavailable where the store cannot be read or written.
    """

    @property
    def open(self) -> int:
        """Number of open jobs that this process computes."""

    @property
    def ended(self) -> int:
        """Number of kept jobs that ended in this process, or in one that this process took over from."""

    async def add(self, job: Job[Work, Result], recipe: Callable[[], bytes]) -> None:
        """Add an open job, and keep ``recipe()`` to compute it again. Raises JobsFull, ClientJobsFull."""

    async def get(self, id: str) -> JobView[Result]:
        """The job of that id. Raises JobExpired if it was removed, UnknownJob if there was none."""

    async def of(self, client: str, most: int, *, only_open: bool = False) -> Sequence[JobView[Result]]:
        """The newest ``most`` jobs of ``client``, newest first; of all, or of those that have not ended."""

    async def cancel(self, id: str) -> JobView[Result]:
        """Cancel a job, whichever process computes it; an ended one stays as it is. Raises as ``get``."""

    async def remove(self, id: str) -> None:
        """Cancel and remove a job; an expired one stays expired. Raises UnknownJob."""

    async def claim(self, full: Sequence[str] = ()) -> Interrupted | None:
        """An interrupted job, which this process must now ``resume``, ``unclaim`` or ``fail``; None without one.

        Jobs of the models ``full`` are left out.
        """

    async def resume(self, job: Job[Work, Result]) -> None:
        """Follow the log of a claimed job."""

    async def unclaim(self, id: str) -> None:
        """Give a claimed job back, to be claimed later."""

    async def fail(self, id: str, failure: ServiceError) -> None:
        """End a claimed job with an error."""

    async def close(self) -> None:
        """End the open jobs of this process with ServiceStopping; a store that survives it keeps them open."""


class MemoryJobs(Generic[Work, Result]):
    """``JobStore`` of one process, on its event loop. ``clock`` returns seconds and never goes back."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds, self._clock = bounds, clock
        self._open: dict[str, Job[Work, Result]] = {}
        self._ended: BoundedStore[str, Job[Work, Result]] = BoundedStore(bounds, self._gone_now)
        self._gone: dict[str, None] = {}

    @property
    def open(self) -> int:
        """Number of open jobs."""
        return len(self._open)

    @property
    def ended(self) -> int:
        """Number of ended jobs that are kept."""
        self._trim()
        return len(self._ended)

    @property
    def size(self) -> int:
        """Approximate number of bytes of all jobs."""
        return self._ended.size + sum(job.size for job in self._open.values())

    async def add(self, job: Job[Work, Result], recipe: Callable[[], bytes]) -> None:  # noqa: ARG002
        """Add an open job; it is not computed again. Raises JobsFull, ClientJobsFull."""
        if len(self._open) >= self._bounds.most:
            raise JobsFull(self._bounds.most)
        self._trim()
        held = self._held(job)
        own = held[job.client].number
        if own > self._bounds.most_of_client or self._ended.takes_from_less(job.client, held):
            raise ClientJobsFull(own - 1)
        self._open[job.id] = job
        job.on_end(lambda: self._end(job))
        self._trim()

    async def get(self, id: str) -> Job[Work, Result]:
        """As ``JobStore.get``."""
        return self._get(id)

    async def of(self, client: str, most: int, *, only_open: bool = False) -> Sequence[Job[Work, Result]]:
        """As ``JobStore.of``."""
        self._trim()
        ended = () if only_open else self._ended
        own = [job for job in (*ended, *self._open.values()) if job.client == client]
        return sorted(own, key=lambda job: job.created, reverse=True)[:most]

    async def cancel(self, id: str) -> Job[Work, Result]:
        """As ``JobStore.cancel``."""
        job = self._get(id)
        job.cancel()
        return job

    async def remove(self, id: str) -> None:
        """As ``JobStore.remove``."""
        try:
            self._get(id).cancel()
        except JobExpired:
            return
        if self._ended.get(id) is not None:  # a job too large for the bounds is gone already
            self._ended.remove(id)

    async def claim(self, full: Sequence[str] = ()) -> Interrupted | None:  # noqa: ARG002
        """None: jobs in memory end with their process."""
        return None

    async def resume(self, job: Job[Work, Result]) -> None:
        """Unused: nothing can be claimed."""
        raise NotImplementedError

    async def unclaim(self, id: str) -> None:
        """Unused: nothing can be claimed."""
        raise NotImplementedError

    async def fail(self, id: str, failure: ServiceError) -> None:
        """Unused: nothing can be claimed."""
        raise NotImplementedError

    async def close(self) -> None:
        """End all open jobs with ServiceStopping."""
        for job in list(self._open.values()):
            job.fail(ServiceStopping())

    def _get(self, id: str) -> Job[Work, Result]:
        self._trim()
        job = self._open.get(id) or self._ended.get(id)
        if job is not None:
            return job
        if id in self._gone:
            raise JobExpired(id, self._bounds.keep_s)
        raise UnknownJob(id)

    def _end(self, job: Job[Work, Result]) -> None:
        if self._open.pop(job.id, None) is not None:
            self._ended.put(job.id, job, job.size, self._clock(), job.client)
            self._trim()

    def _trim(self) -> None:
        total = Held(len(self._open), sum(job.size for job in self._open.values()))
        self._ended.trim(self._clock(), total, self._held)

    def _held(self, *more: Job[Work, Result]) -> dict[str, Held]:
        """What the open jobs of each client hold, and ``more``."""
        held: dict[str, Held] = {}
        for job in (*self._open.values(), *more):
            count, size = held.get(job.client, Held())
            held[job.client] = Held(count + 1, size + job.size)
        return held

    def _gone_now(self, id: str) -> None:
        self._gone[id] = None
        while len(self._gone) > GONE_PER_JOB * self._bounds.most:
            del self._gone[next(iter(self._gone))]
