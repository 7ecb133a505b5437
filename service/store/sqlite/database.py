"""One SQLite file that several processes share. Its statements run in one thread, never on the event loop."""

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from service.errors import StoreUnavailable
from service.store.shared.rows import StoreRefused
from service.store.sqlite.schema import prepare

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that a statement waits for another process's transaction.
BUSY_S = 2.0

#: Most calls that wait for the thread: where the disk stands still, further requests are rejected at once.
MOST_WAITING = 256


class Database:
    """The file at ``path``, created if there is none, readable by its owner only. Raises StoreRefused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = _open(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting = 0
        self._failing = self._closed = False

    async def read(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(connection, *args)`` in the thread. Raises StoreUnavailable."""
        return await self._run(lambda: work(self._connection, *args, **kwargs))

    async def write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """``work(connection, *args)`` in the thread, as one transaction. Raises StoreUnavailable."""

        def transaction() -> T:
            with _transaction(self._connection):
                return work(self._connection, *args, **kwargs)

        return await self._run(transaction)

    async def close(self) -> None:
        """Close the file after the calls that wait; may be repeated."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise _unavailable()
        self._waiting += 1
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError, RuntimeError) as failure:
            if not self._failing:  # a repeated failure is logged once
                log.error("the job store cannot be used", extra={"path": str(self.path), "reason": str(failure)})
            self._failing = True
            raise _unavailable() from None
        finally:
            self._waiting -= 1
        self._failing = False
        return done


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("The job store cannot be used at the moment.", retry_after_s=1)


def _open(path: Path) -> sqlite3.Connection:
    try:
        with locked(Path(f"{path}-lock")):  # two processes must not both create it
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                prepare(connection)
            except BaseException:
                connection.close()
                raise
    except (OSError, sqlite3.Error) as failure:
        raise StoreRefused(f"{path} cannot be used as the job store: {failure}") from None
    return connection


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, which stays."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
