"""The jobs there are: those that have not ended, and for a while those that have."""

from collections.abc import Callable, Sequence
from typing import Generic

from service.errors import JobExpired, JobsFull, ServiceStopping, UnknownJob
from service.store.bounded import BoundedStore, Bounds
from service.store.job import Job, Result, Work

#: Ids of jobs that are gone are remembered for this many times as many jobs as there may be.
GONE_PER_JOB = 8


class JobStore(Generic[Work, Result]):
    """Jobs by id, within ``bounds``; on the event loop only. ``clock`` gives seconds that only grow.

    To make room, the jobs that ended first go first; those that have not ended never do.
    """

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds, self._clock = bounds, clock
        self._open: dict[str, Job[Work, Result]] = {}
        self._ended: BoundedStore[str, Job[Work, Result]] = BoundedStore(bounds, self._gone_now)
        self._gone: dict[str, None] = {}

    @property
    def open(self) -> int:
        """How many have not ended."""
        return len(self._open)

    @property
    def ended(self) -> int:
        """How many have ended, and are kept."""
        self._trim()
        return len(self._ended)

    @property
    def size(self) -> int:
        """Bytes of all of them, roughly."""
        return self._ended.size + sum(record.size for record in self._open.values())

    def add(self, record: Job[Work, Result]) -> None:
        """Take a job that has not ended. Raises JobsFull when there are only such, as many as there may be."""
        if len(self._open) >= self._bounds.most:
            raise JobsFull(self._bounds.most)
        self._open[record.id] = record
        record.on_end(lambda: self._end(record))
        self._trim()

    def get(self, id: str) -> Job[Work, Result]:
        """The job of that id. Raises JobExpired when there was one, UnknownJob when there was none."""
        self._trim()
        record = self._open.get(id) or self._ended.get(id)
        if record is not None:
            return record
        if id in self._gone:
            raise JobExpired(id, self._bounds.keep_s)
        raise UnknownJob(id)

    def of(self, client: str, most: int) -> Sequence[Job[Work, Result]]:
        """The jobs of ``client``, the latest of them first."""
        self._trim()
        own = [record for record in (*self._ended, *self._open.values()) if record.client == client]
        return sorted(own, key=lambda record: record.created, reverse=True)[:most]

    def remove(self, id: str) -> None:
        """Forget a job, which ends by that; one that is gone stays so. Raises UnknownJob."""
        try:
            record = self.get(id)
        except JobExpired:
            return
        record.cancel()
        if self._ended.get(id) is not None:  # it may have been too large to be kept
            self._ended.remove(id)

    def withdraw(self, record: Job[Work, Result]) -> None:
        """Forget a job that never began, as if it had not been added."""
        del self._open[record.id]

    def stop(self) -> None:
        """End all that have not ended: the service is stopping."""
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
