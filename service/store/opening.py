"""The store that the settings name."""

import time
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from service.settings import Settings
from service.store.bounded import Bounds
from service.store.codec import Codec
from service.store.jobs import JobStore, MemoryJobs
from service.store.keys import KeyedAnswers, MemoryKeys
from service.store.shared.jobs import SharedJobs
from service.store.shared.keys import SharedKeys
from service.store.shared.records import JobRecords, KeyRecords
from service.store.shared.rows import Limits, StoreRefused
from service.store.sqlite.database import Database
from service.store.sqlite.store import SqliteRecords

Work = TypeVar("Work")
Result = TypeVar("Result")


class Store(NamedTuple, Generic[Work, Result]):
    """Jobs and kept answers. ``close`` ends what this process computes, and leaves the rest to others."""

    jobs: JobStore[Work, Result]
    keyed: KeyedAnswers
    close: Callable[[], Awaitable[None]]


class _Records(JobRecords, KeyRecords, Protocol):
    pass


async def open_store(settings: Settings, codec: Codec[Work, Result]) -> Store[Work, Result]:
    """Open the store. Raises StoreRefused where it cannot be used, StoreUnavailable where a file is locked."""
    bounds = Bounds(settings.max_jobs, settings.job_bytes, settings.job_keep_s, settings.client_share)
    if settings.store == "memory":
        kept: MemoryJobs[Work, Result] = MemoryJobs(bounds, time.monotonic)
        return Store(kept, MemoryKeys(bounds, time.monotonic), kept.close)
    records, disconnect = _connect(settings)
    jobs: SharedJobs[Work, Result] = SharedJobs(records, Limits(bounds, settings.max_waiting_bytes), codec)
    await jobs.start()

    async def close() -> None:
        await jobs.close()
        await disconnect()

    return Store(jobs, SharedKeys(records, bounds), close)


def _connect(settings: Settings) -> tuple[_Records, Callable[[], Awaitable[None]]]:
    """The records of the store that the settings name, and what closes it. Raises StoreRefused."""
    path = settings.store_path
    if path is not None:
        database = Database(path)
        return SqliteRecords(database), database.close
    try:
        from service.store.redis.connection import Connection  # an extra
        from service.store.redis.store import RedisRecords
    except ModuleNotFoundError as failure:
        raise StoreRefused(
            f"GENSERVE_STORE names a Redis server, and the package {failure.name} is not installed: "
            "`pip install 'genserve[redis]'` adds it."
        ) from None
    connection = Connection(settings.store)
    return RedisRecords(connection), connection.close
