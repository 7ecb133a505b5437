"""The store that the settings name."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from service.settings import Settings
from service.store.bounded import Bounds
from service.store.codec import Codec
from service.store.jobs import JobStore, MemoryJobs
from service.store.keys import KeyedAnswers, MemoryKeys
from service.store.sqlite.database import Database
from service.store.sqlite.jobs import SqliteJobs
from service.store.sqlite.keys import SqliteKeys
from service.store.sqlite.records import Limits

Work = TypeVar("Work")
Result = TypeVar("Result")


class Store(NamedTuple, Generic[Work, Result]):
    """Jobs and kept answers. ``close`` ends what this process computes, and leaves the rest to others."""

    jobs: JobStore[Work, Result]
    keyed: KeyedAnswers
    close: Callable[[], Awaitable[None]]


async def open_store(settings: Settings, codec: Codec[Work, Result]) -> Store[Work, Result]:
    """Open the store. Raises StoreRefused where the file cannot be used, StoreUnavailable where it is locked."""
    bounds = Bounds(settings.max_jobs, settings.job_bytes, settings.job_keep_s, settings.client_share)
    path = settings.store_path
    if path is None:
        kept: MemoryJobs[Work, Result] = MemoryJobs(bounds, time.monotonic)
        return Store(kept, MemoryKeys(bounds, time.monotonic), kept.close)
    return await _open_file(path, bounds, settings.max_waiting_bytes, codec)


async def _open_file(path: Path, bounds: Bounds, recipe_bytes: int, codec: Codec[Work, Result]) -> Store[Work, Result]:
    database = Database(path)
    jobs: SqliteJobs[Work, Result] = SqliteJobs(database, Limits(bounds, recipe_bytes), codec)
    await jobs.start()

    async def close() -> None:
        await jobs.close()
        await database.close()

    return Store(jobs, SqliteKeys(database, jobs.owner, bounds), close)
