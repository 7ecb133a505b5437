"""A job that another process computes, or that has ended: what the store says of it."""

import asyncio
from collections.abc import Callable
from typing import Generic, NamedTuple

from pydantic_core import from_json

from service.errors import JobCanceled, ServiceError, StoreUnavailable
from service.store.codec import Codec
from service.store.events import Event, EventListener
from service.store.failure import unpack_failure
from service.store.job import About, JobProgress, Result, State, Work
from service.store.shared.records import JobRecords
from service.store.shared.rows import Row


class Source(NamedTuple, Generic[Work, Result]):
    """Where views read: rows, and how their bytes become results."""

    records: JobRecords
    codec: Codec[Work, Result]
    clock: Callable[[], float]
    keep_s: float

    async def find(self, id: str) -> Row:
        """The row of a job. Raises JobExpired, UnknownJob, StoreUnavailable."""
        return await self.records.find(id, self.clock(), self.keep_s)


class StoredJob(Generic[Work, Result]):
    """``JobView`` of a row."""

    def __init__(self, source: Source[Work, Result], row: Row) -> None:
        self.id, self.client, self.created = row.id, row.client, row.created
        self._source = source
        self._take(row)

    async def refresh(self) -> None:
        """Nothing: the row was just read, and the process that computes the job keeps it up to date."""

    async def wait(self, within_s: float) -> bool:
        """Whether the job ends within ``within_s`` seconds. Raises JobExpired where it is deleted, StoreUnavailable."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + within_s
        while not self.done and clock() < give_up:
            await self._source.records.changes.wait(self.id, give_up - clock())
            self._take(await self._source.find(self.id))
        return self.done

    async def output(self) -> Result | None:
        """The result of a job that succeeded. Raises StoreUnavailable."""
        found = await self._source.records.result_of(self.id)
        return None if found is None else await asyncio.to_thread(self._source.codec.unpack, *found)

    def listen(self, after: int = 0) -> EventListener:
        """A reader of the events after event ``after``."""
        return StoredListener(self._source, self.id, after)

    def _take(self, row: Row) -> None:
        self.state: State = row.state
        self.progress: JobProgress = row.progress
        self.last_event, self.done = row.last_event, row.ended is not None
        self.about = About(*from_json(row.about))
        self.error: ServiceError | None = None if row.error is None else unpack_failure(row.error)


class StoredListener(Generic[Work, Result]):
    """``EventListener`` on rows."""

    def __init__(self, source: Source[Work, Result], id: str, after: int) -> None:
        self._source, self._id, self._last = source, id, after
        self._closing = asyncio.Event()
        self._closed = self._ended = False

    def __enter__(self) -> EventListener:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True

    @property
    def over(self) -> bool:
        """Whether no event follows."""
        return self._closed or self._ended

    def close(self) -> None:
        """Return no more events."""
        self._closed = True
        self._closing.set()

    async def next(self, within_s: float) -> Event | None:
        """As ``EventListener.next``; a store that cannot be read has no events for a while."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + within_s
        while not self.over:
            event = await self._read()
            if self._closed:
                return None
            if event is not None or self.over or clock() >= give_up:
                return event
            await self._source.records.changes.wait(self._id, give_up - clock(), self._closing)
        return None

    async def _read(self) -> Event | None:
        try:
            found = await self._source.records.next_event(self._id, self._last)
        except StoreUnavailable:
            return None
        if found is None:  # deleted, and so cancelled
            self._ended = True
            return Event(self._last + 1, "error", self._source.codec.error(self._id, JobCanceled(self._id)))
        ended, last, event = found
        if event is not None:
            self._last = event.id
        self._ended = ended and self._last >= last
        return None if event is None else Event(event.id, event.name, event.data)
