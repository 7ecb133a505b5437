"""Jobs in a store that processes share: they outlive their process, and any of the processes can tell of them."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic

from pydantic_core import to_json

from service.errors import JobCanceled, JobExpired, ServiceError, ServiceStopping, StoreUnavailable, UnknownJob
from service.store.codec import Codec
from service.store.failure import pack_failure
from service.store.job import Job, JobView, Result, State, Work
from service.store.jobs import Interrupted
from service.store.shared.news import Snapshot
from service.store.shared.records import JobRecords
from service.store.shared.rows import Limits, New, News, Row
from service.store.shared.view import Source, StoredJob

log = logging.getLogger(__name__)

#: Seconds that news of jobs wait for more of them: one transaction writes them all.
GATHER_S = 0.05
#: Seconds after which this process notices that another one cancelled a job.
LOST_S = 0.25
#: Seconds between two updates of the progress, and before a failed transaction is tried again.
PROGRESS_S = 1.0


class _Live(Generic[Work, Result]):
    """A job that this process computes, and how much of its log is written. ``wake`` is called for every event."""

    def __init__(self, job: Job[Work, Result], news: asyncio.Event) -> None:
        self.job, self.written, self.progress = job, job.last_event, job.progress
        self._news = news

    def wake(self) -> None:
        """Have the log written."""
        self._news.set()

    @property
    def has_news(self) -> bool:
        """Whether something is not written yet."""
        return self.job.last_event > self.written or self.job.progress != self.progress


class SharedJobs(Generic[Work, Result]):
    """``JobStore`` of rows. A job is there when ``add`` returns; what happens to it follows within ``GATHER_S``.

    ``clock`` returns seconds since 1970: unlike the monotonic clock it goes on when the machine restarts. Where it is
    set back, ended jobs are kept for longer; where it is set forward, they expire early. Nothing else depends on it.
    """

    def __init__(
        self, records: JobRecords, limits: Limits, codec: Codec[Work, Result], clock: Callable[[], float] = time.time
    ) -> None:
        self._records, self._limits, self._codec, self._clock = records, limits, codec, clock
        self._source = Source(records, codec, clock, limits.jobs.keep_s)
        self._live: dict[str, _Live[Work, Result]] = {}
        self._ended = 0
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        #: Added by a request that was cancelled before it knew; removed with the next news.
        self._unwanted: list[str] = []
        self._adding: set[str] = set()
        #: Of this process by the store and unknown to it, a second ago.
        self._strays: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def open(self) -> int:
        """Number of open jobs of this process."""
        return sum(not live.job.done for live in self._live.values())

    @property
    def ended(self) -> int:
        """Number of kept jobs that ended in this process; those removed since ``PROGRESS_S`` seconds may count."""
        return self._ended + len(self._live) - self.open

    async def start(self) -> None:
        """Begin to write what happens. Raises StoreUnavailable."""
        await self._records.join()
        self._task = asyncio.create_task(self._work())

    async def add(self, job: Job[Work, Result], recipe: Callable[[], bytes]) -> None:
        """As ``JobStore.add``. Raises MemoryFull too, where open jobs hold the maximum of uploads."""
        news = News(job.id, job.state, job.progress, 0, job.own_size, to_json(job.about))
        new = New(job.client, job.about.model, job.created, recipe)
        self._adding.add(job.id)
        try:
            await self._records.add(news, new, self._clock(), self._limits)
        except (asyncio.CancelledError, StoreUnavailable):
            self._unwanted.append(job.id)  # the store may write it all the same
            self._news.set()
            raise
        finally:
            self._adding.discard(job.id)
        self._follow(job)

    async def get(self, id: str) -> JobView[Result]:
        """As ``JobStore.get``."""
        live = self._live.get(id)
        return self._view(await self._source.find(id)) if live is None else live.job

    async def of(self, client: str, most: int, *, only_open: bool = False) -> Sequence[JobView[Result]]:
        """As ``JobStore.of``."""
        expired = math.inf if only_open else self._clock() - self._limits.jobs.keep_s
        rows = await self._records.of_client(client, most, expired)
        return [self._view(row) for row in rows]

    async def cancel(self, id: str) -> JobView[Result]:
        """As ``JobStore.cancel``. The store says so when this returns."""
        live = self._live.get(id)
        if live is None:
            await self._end(id, "canceled", JobCanceled(id))
            return await self.get(id)
        live.job.cancel()
        await self.flush()
        return live.job

    async def remove(self, id: str) -> None:
        """As ``JobStore.remove``."""
        await self._records.remove(id, self._clock(), self._limits.jobs)
        live = self._live.get(id)
        if live is not None:
            self._drop(live)
            live.job.cancel()
        self._records.changes.changed(id)

    async def claim(self, full: Sequence[str] = ()) -> Interrupted | None:
        """As ``JobStore.claim``: a job of a process that has died, or of one that stopped."""
        return await self._records.claim(full)

    async def resume(self, job: Job[Work, Result]) -> None:
        """As ``JobStore.resume``."""
        self._follow(job)

    async def unclaim(self, id: str) -> None:
        """As ``JobStore.unclaim``."""
        await self._records.unclaim(id)

    async def fail(self, id: str, failure: ServiceError) -> None:
        """As ``JobStore.fail``."""
        with suppress(JobExpired, UnknownJob):  # its sender deleted it
            await self._end(id, "failed", failure)

    async def flush(self) -> None:
        """Write what has happened to the jobs of this process. Raises StoreUnavailable."""
        async with self._writing:
            self._news.clear()
            live = [each for each in self._live.values() if each.has_news]
            if live:
                await self._write(live)
            for id in self._unwanted[:]:
                await self._records.discard(id)
                self._unwanted.remove(id)

    async def close(self) -> None:
        """Leave open jobs to the next process; here they end with ServiceStopping. The store stays open."""
        if self._task is not None:
            self._task.cancel()
        with suppress(StoreUnavailable):
            await self.flush()
        for live in [*self._live.values()]:
            self._drop(live)
            live.job.fail(ServiceStopping())
        with suppress(StoreUnavailable):
            await self._records.leave()

    def _follow(self, job: Job[Work, Result]) -> None:
        live = self._live[job.id] = _Live(job, self._news)
        job.log.listeners.add(live)
        if job.last_event > live.written:
            self._news.set()

    def _view(self, row: Row) -> JobView[Result]:
        live = self._live.get(row.id)
        stored: StoredJob[Work, Result] = StoredJob(self._source, row)
        return stored if live is None else live.job

    def _drop(self, live: _Live[Work, Result]) -> None:
        """Follow a job no more."""
        self._live.pop(live.job.id, None)
        live.job.log.listeners.discard(live)

    async def _write(self, live: Sequence[_Live[Work, Result]]) -> None:
        """Write the news of ``live``; those that ended here or elsewhere are followed no more."""
        snapshots = [Snapshot.of(each.job, each.written) for each in live]
        all_news = await asyncio.to_thread(lambda: [each.encoded(self._codec) for each in snapshots])
        bounds = self._limits.jobs
        lost = await self._records.tell(all_news, self._clock(), bounds)
        for each, news in zip(live, all_news, strict=True):
            each.written, each.progress = news.last_event, news.progress
            if news.ended or news.id in lost:
                self._ended += news.id not in lost
                self._drop(each)
                each.job.cancel()  # no effect on one that has ended
        self._records.changes.changed(*(news.id for news in all_news))

    async def _end(self, id: str, state: State, failure: ServiceError) -> None:
        error, data = pack_failure(failure), self._codec.error(id, failure)
        await self._records.end(id, state, error, data, self._clock(), self._limits.jobs)
        self._records.changes.changed(id)

    async def _work(self) -> None:
        clock = asyncio.get_running_loop().time
        progress_at = clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOST_S):
                    await self._news.wait()
                    await asyncio.sleep(GATHER_S)
            try:
                await self.flush()
                await self._drop_lost()
                if clock() >= progress_at:
                    await self._maintain()
                    progress_at = clock() + PROGRESS_S
            except StoreUnavailable:
                await asyncio.sleep(PROGRESS_S)
            except Exception:
                log.exception("jobs could not be written")
                await asyncio.sleep(PROGRESS_S)

    async def _drop_lost(self) -> None:
        """Cancel the jobs that another process cancelled, deleted or took over."""
        live = [each for each in self._live.values() if not each.job.done]
        if live:
            own = await self._records.own()
            for each in live:
                if each.job.id not in own:
                    self._drop(each)
                    each.job.cancel()

    async def _give_back_strays(self) -> None:
        """Have jobs claimed again that this process claimed without knowing it, because the store's answer was lost."""
        strays = await self._records.own() - self._live.keys() - self._adding
        for id in strays & self._strays:
            await self._records.unclaim(id)
        self._strays = strays

    async def _maintain(self) -> None:
        """Have the progress written, and expired jobs removed."""
        for each in [*self._live.values()]:
            each.job.look()
            if each.has_news:
                self._news.set()
        await self._give_back_strays()
        self._ended = await self._records.maintain(self._clock(), self._limits.jobs)
