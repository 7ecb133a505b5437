"""``JobRecords`` and ``KeyRecords`` in a SQLite file: its functions in transactions of this process."""

import logging
from collections.abc import Sequence

from service.store.bounded import Bounds
from service.store.job import State
from service.store.jobs import Interrupted
from service.store.keys import KeptAnswer, Key
from service.store.shared.rows import EventRow, Limits, New, News, Row
from service.store.sqlite import answers, owner, records
from service.store.sqlite.database import Database
from service.store.sqlite.schema import shrink
from service.store.sqlite.watch import Watch

log = logging.getLogger(__name__)


class SqliteRecords:
    """What this process writes and reads; its jobs and keys are its own until it leaves or dies."""

    def __init__(self, database: Database) -> None:
        self.changes = Watch(database)
        self._database = database
        self._owner = owner.Owner(database.path)

    async def join(self) -> None:
        """As ``JobRecords.join``."""
        await self._database.write(records.join, self._owner.id)

    async def leave(self) -> None:
        """As ``JobRecords.leave``."""
        try:
            await self._database.write(records.leave, self._owner.id)
        finally:
            self.changes.close()
            self._owner.release()

    async def add(self, news: News, new: New, now: float, limits: Limits) -> None:
        """As ``JobRecords.add``."""
        await self._database.write(records.add, self._owner.id, news, new, now, limits)

    async def tell(self, all_news: Sequence[News], now: float, bounds: Bounds) -> Sequence[str]:
        """As ``JobRecords.tell``."""
        return await self._database.write(records.tell, self._owner.id, all_news, now, bounds)

    async def end(self, id: str, state: State, error: bytes, data: bytes, now: float, bounds: Bounds) -> None:
        """As ``JobRecords.end``."""
        await self._database.write(records.end, id, state, error, data, now, bounds)

    async def find(self, id: str, now: float, keep_s: float) -> Row:
        """As ``JobRecords.find``."""
        return await self._database.read(records.find, id, now, keep_s)

    async def of_client(self, client: str, most: int, expired: float) -> Sequence[Row]:
        """As ``JobRecords.of_client``."""
        return await self._database.read(records.of_client, client, most, expired)

    async def next_event(self, id: str, after: int) -> tuple[bool, int, EventRow | None] | None:
        """As ``JobRecords.next_event``."""
        return await self._database.read(records.next_event, id, after)

    async def result_of(self, id: str) -> tuple[bytes, bytes] | None:
        """As ``JobRecords.result_of``."""
        return await self._database.read(records.result_of, id)

    async def remove(self, id: str, now: float, bounds: Bounds) -> None:
        """As ``JobRecords.remove``."""
        await self._database.write(records.remove, id, now, bounds)

    async def discard(self, id: str) -> None:
        """As ``JobRecords.discard``."""
        await self._database.write(records.discard, id)

    async def own(self) -> set[str]:
        """As ``JobRecords.own``."""
        return await self._database.read(records.open_of, self._owner.id)

    async def claim(self, full: Sequence[str]) -> Interrupted | None:
        """As ``JobRecords.claim``: a job of a process that has died, or of one that stopped."""
        for other in await self._database.read(records.others, self._owner.id):
            if not owner.is_alive(self._database.path, other):
                log.warning("a process that computed jobs has died: they are computed again", extra={"owner": other})
                await self._database.write(records.bury, self._owner.id, other)
                owner.forget(self._database.path, other)
        if not await self._database.read(records.any_unclaimed):
            return None
        return await self._database.write(records.claim, self._owner.id, full)

    async def unclaim(self, id: str) -> None:
        """As ``JobRecords.unclaim``."""
        await self._database.write(records.unclaim, id, self._owner.id)

    async def maintain(self, now: float, bounds: Bounds) -> int:
        """As ``JobRecords.maintain``; free pages are given back."""
        await self._database.write(records.trim, now, bounds)
        await self._database.read(shrink)
        return await self._database.read(records.ended_of, self._owner.id)

    async def claim_key(self, key: Key, fingerprint: bytes, now: float, bounds: Bounds) -> KeptAnswer | None:
        """As ``KeyRecords.claim_key``."""
        return await self._database.write(answers.claim, self._owner.id, key, fingerprint, now, bounds)

    async def keep_key(self, key: Key, answer: KeptAnswer, now: float, bounds: Bounds) -> None:
        """As ``KeyRecords.keep_key``."""
        await self._database.write(answers.keep, self._owner.id, key, answer, now, bounds)

    async def release_key(self, key: Key) -> None:
        """As ``KeyRecords.release_key``."""
        await self._database.write(answers.release, self._owner.id, key)
