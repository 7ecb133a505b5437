"""What a store that processes share must do with rows: the part that differs between SQLite and Redis."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from service.store.bounded import Bounds
from service.store.job import State
from service.store.jobs import Interrupted
from service.store.keys import KeptAnswer, Key
from service.store.shared.rows import EventRow, Limits, New, News, Row


class Changes(Protocol):
    """Wakes those who wait for a change of a job, which another process may make."""

    async def wait(self, id: str, within_s: float, woken: asyncio.Event | None = None) -> None:
        """Return after a change of job ``id`` or another, after ``within_s`` seconds, or when ``woken`` is set."""

    def changed(self, *ids: str) -> None:
        """Wake all who wait for ``ids``: this process has changed these jobs."""


class JobRecords(Protocol):
    """Jobs as rows; each method is one transaction.

    ``now`` is in seconds since 1970. Every method raises StoreUnavailable where the store cannot be read or written.
    """

    @property
    def changes(self) -> Changes:
        """Changes of the rows."""

    async def join(self) -> None:
        """Record this process as one that owns jobs."""

    async def leave(self) -> None:
        """Give back the open jobs and the claimed keys of this process, which stops."""

    async def add(self, news: News, new: New, now: float, limits: Limits) -> None:
        """Add an open job of this process. Raises JobsFull, ClientJobsFull, MemoryFull."""

    async def tell(self, all_news: Sequence[News], now: float, bounds: Bounds) -> Sequence[str]:
        """Write news of open jobs of this process. Returns the ids of those that are not its, or have ended."""

    async def end(self, id: str, state: State, error: bytes, data: bytes, now: float, bounds: Bounds) -> None:
        """End a job of any process with an ``error`` whose event has ``data``; no effect on ended ones.

        Raises JobExpired, UnknownJob.
        """

    async def find(self, id: str, now: float, keep_s: float) -> Row:
        """The job of that id. Raises JobExpired, UnknownJob."""

    async def of_client(self, client: str, most: int, expired: float) -> Sequence[Row]:
        """The newest ``most`` jobs of a client that did not end before ``expired``, newest first."""

    async def next_event(self, id: str, after: int) -> tuple[bool, int, EventRow | None] | None:
        """Whether the job has ended, the id of its last event, and the first kept one after ``after``; None: no job."""

    async def result_of(self, id: str) -> tuple[bytes, bytes] | None:
        """The packed result of a job and the data of its last event; None where it has none, or is gone."""

    async def remove(self, id: str, now: float, bounds: Bounds) -> None:
        """Remove a job. An expired one stays expired. Raises UnknownJob."""

    async def discard(self, id: str) -> None:
        """Remove a job as if it had not been added."""

    async def own(self) -> set[str]:
        """The ids of the open jobs of this process, which is alive."""

    async def claim(self, full: Sequence[str]) -> Interrupted | None:
        """The oldest open job that no living process computes, its events removed; None without one.

        Jobs of the models ``full`` are left out.
        """

    async def unclaim(self, id: str) -> None:
        """Leave an open job of this process to the next process that claims one."""

    async def maintain(self, now: float, bounds: Bounds) -> int:
        """Remove what is expired. Returns the number of kept jobs that ended with this process."""


class KeyRecords(Protocol):
    """Answers by Idempotency-Key as rows; each method is one transaction, and raises StoreUnavailable."""

    async def claim_key(self, key: Key, fingerprint: bytes, now: float, bounds: Bounds) -> KeptAnswer | None:
        """The kept answer of ``key``; None: it is this process' to answer. Raises KeyInUse, KeyReused."""

    async def keep_key(self, key: Key, answer: KeptAnswer, now: float, bounds: Bounds) -> None:
        """Keep the answer of a key that this process has claimed."""

    async def release_key(self, key: Key) -> None:
        """Free a key that this process has claimed, if it has no answer."""
