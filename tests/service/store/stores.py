"""Stores that tests open, and jobs whose payloads are bytes or nothing."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from service.errors import ServiceError
from service.store.bounded import Bounds
from service.store.events import Event
from service.store.job import About, Job
from service.store.jobs import JobStore, MemoryJobs
from service.store.keys import KeyedAnswers, MemoryKeys
from service.store.redis.connection import Connection
from service.store.redis.store import RedisRecords
from service.store.shared.jobs import SharedJobs
from service.store.shared.keys import SharedKeys
from service.store.shared.rows import Limits
from service.store.sqlite.database import Database
from service.store.sqlite.store import SqliteRecords
from tests.redis_server import RedisServer, shared_server
from tests.service.clock import Clock

Record = Job[None, str]
BOUNDS = Bounds(8, 1 << 20, 600.0)


class PlainCodec:
    """Payloads that are no bytes take none, so that a job is as large in a file as in memory."""

    def event(self, job: Record, event: Event) -> bytes:
        return event.payload if isinstance(event.payload, bytes) else b""

    def error(self, id: str, failure: ServiceError) -> bytes:
        return b""

    def pack(self, result: str) -> bytes:
        return b""

    def unpack(self, packed: bytes, last: bytes) -> str:
        return last.decode()


def make(id: str, client: str = "a", created: float = 0.0, fill: int = 0, last_event: int = 0) -> Record:
    """A job whose fields hold about ``fill`` bytes."""
    return Job(id, client, None, About("model", "12345678", 3, [1, None], {"fill": "x" * fill}), created, last_event)


def succeed(job: Record, result: str = "result") -> None:
    """End ``job`` with ``result``."""
    job.succeed(result, result.encode(), len(result))


@dataclass
class Opened:
    """A store, what makes it tell others, and its clock."""

    jobs: JobStore[None, str]
    keyed: KeyedAnswers
    clock: Clock
    records: SqliteRecords | RedisRecords | None = None

    async def settle(self) -> None:
        """Have everything written that has happened."""
        if isinstance(self.jobs, SharedJobs):
            await self.jobs.flush()


@asynccontextmanager
async def opened(
    kind: str,
    folder: Path,
    bounds: Bounds = BOUNDS,
    recipe_bytes: int = 1 << 20,
    server: RedisServer | None = None,
    patience_s: float = 0.0,
) -> AsyncIterator[Opened]:
    """A store in memory, in a file of ``folder``, or in the part of a Redis server that belongs to ``folder``."""
    clock = Clock()
    if kind == "memory":
        yield Opened(MemoryJobs(bounds, clock), MemoryKeys(bounds, clock), clock)
        return
    records = connect(kind, folder, server, patience_s)
    jobs: SharedJobs[None, str] = SharedJobs(records, Limits(bounds, recipe_bytes), PlainCodec(), clock)
    await jobs.start()
    try:
        yield Opened(jobs, SharedKeys(records, bounds, clock), clock, records)
    finally:
        await jobs.close()
        await disconnect(records)


def connect(kind: str, folder: Path, server: RedisServer | None, patience_s: float) -> SqliteRecords | RedisRecords:
    """The records of a process; on ``server`` or the one of all tests."""
    if kind == "sqlite":
        return SqliteRecords(Database(folder / "jobs.db"))
    return RedisRecords(Connection((server or shared_server()).url(folder)), patience_s)


async def disconnect(records: SqliteRecords | RedisRecords) -> None:
    """Close what ``connect`` opened."""
    await (records._database if isinstance(records, SqliteRecords) else records._connection).close()


async def die(store: Opened) -> None:
    """End ``store`` as kill -9 does: nothing more is written, and its lock is free or its lease over."""
    assert isinstance(store.jobs, SharedJobs)
    assert store.jobs._task is not None
    assert store.records is not None
    store.jobs._task.cancel()
    store.records.changes.close()
    await lose(store)
    await disconnect(store.records)


async def lose(store: Opened) -> None:
    """Have the others think that the process of ``store`` is dead."""
    if isinstance(store.records, SqliteRecords):
        store.records._owner.release()
    elif store.records is not None:
        await store.records._connection.command("DEL", f"{{genserve-1}}:lease:{store.records.owner}")


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What a query of the file finds."""
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()
