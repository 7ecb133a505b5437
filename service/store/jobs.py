"""All jobs in memory: open ones, and ended ones for a limited time."""

from collections.abc import Callable, Sequence
from typing import Generic

from service.errors import JobExpired, JobsFull, ServiceStopping, UnknownJob
from service.store.bounded import BoundedStore, Bounds
from service.store.job import Job, Result, Work

#: Number of expired ids that are remembered, for each job that the bounds allow.
GONE_PER_JOB = 8


class JobStore(Generic[Work, Result]):
    """Jobs by id, within ``bounds``, for the event loop only. ``clock`` returns seconds and never goes back.

    Jobs that ended first are removed first; open jobs are never removed.
    """

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
        return self._ended.size + sum(record.size for record in self._open.values())

    def add(self, record: Job[Work, Result]) -> None:
        """Add an open job. Raises JobsFull if the maximum number of jobs is open."""
        if len(self._open) >= self._bounds.most:
            raise JobsFull(self._bounds.most)
        self._open[record.id] = record
        record.on_end(lambda: self._end(record))
        self._trim()

    def get(self, id: str) -> Job[Work, Result]:
        """The job of that id. Raises JobExpired if it was removed, UnknownJob if there was none."""
        self._trim()
        record = self._open.get(id) or self._ended.get(id)
        if record is not None:
            return record
        if id in self._gone:
            raise JobExpired(id, self._bounds.keep_s)
        raise UnknownJob(id)

    def of(self, client: str, most: int) -> Sequence[Job[Work, Result]]:
        """The newest ``most`` jobs of ``client``, newest first."""
        self._trim()
        own = [record for record in (*self._ended, *self._open.values()) if record.client == client]
        return sorted(own, key=lambda record: record.created, reverse=True)[:most]

    def remove(self, id: str) -> None:
        """Cancel and remove a job; an expired one stays expired. Raises UnknownJob."""
        try:
            record = self.get(id)
        except JobExpired:
            return
        record.cancel()
        if self._ended.get(id) is not None:  # a job too large for the bounds is gone already
            self._ended.remove(id)

    def withdraw(self, record: Job[Work, Result]) -> None:
        """Remove a job that never began, as if it had not been added."""
        del self._open[record.id]

    def stop(self) -> None:
        """End all open jobs with ServiceStopping."""
        for record in list(self._open.values()):
            record.fail(ServiceStopping())

    def _end(self, record: Job[Work, Result]) -> None:
        if self._open.pop(record.id, None) is not None:
            self._ended.put(record.id, record, record.size, self._clock())
            self._trim()

    def _trim(self) -> None:
        self._ended.trim(self._clock(), len(self._open), sum(record.size for record in self._open.values()))

    def _gone_now(self, id: str) -> None:
        self._gone[id] = None
        while len(self._gone) > GONE_PER_JOB * self._bounds.most:
            del self._gone[next(iter(self._gone))]
