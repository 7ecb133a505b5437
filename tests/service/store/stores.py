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
from service.store.sqlite.database import Database
from service.store.sqlite.jobs import SqliteJobs
from service.store.sqlite.keys import SqliteKeys
from service.store.sqlite.records import Limits
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

    async def settle(self) -> None:
        """Have everything written that has happened."""
        if isinstance(self.jobs, SqliteJobs):
            await self.jobs.flush()


@asynccontextmanager
async def opened(
    kind: str, folder: Path, bounds: Bounds = BOUNDS, recipe_bytes: int = 1 << 20
) -> AsyncIterator[Opened]:
    """A store in memory, or in a file of ``folder``."""
    clock = Clock()
    if kind == "memory":
        yield Opened(MemoryJobs(bounds, clock), MemoryKeys(bounds, clock), clock)
        return
    database = Database(folder / "jobs.db")
    jobs: SqliteJobs[None, str] = SqliteJobs(database, Limits(bounds, recipe_bytes), PlainCodec(), clock)
    await jobs.start()
    try:
        yield Opened(jobs, SqliteKeys(database, jobs.owner, bounds, clock), clock)
    finally:
        await jobs.close()
        await database.close()


async def die(store: Opened) -> None:
    """End ``store`` as kill -9 does: nothing more is written, and its lock is free."""
    jobs = store.jobs
    assert isinstance(jobs, SqliteJobs)
    assert jobs._task is not None
    jobs._task.cancel()
    jobs._watch.close()
    jobs._owner.release()
    await jobs._database.close()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What a query of the file finds."""
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()
