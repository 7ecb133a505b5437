"""``JobRecords`` and ``KeyRecords`` on a Redis server: calls of the functions of ``script.lua``."""

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from service.errors import (
    ClientJobsFull,
    JobExpired,
    JobsFull,
    KeyInUse,
    KeyReused,
    MemoryFull,
    UnknownJob,
)
from service.store.bounded import Bounds
from service.store.job import JobProgress, State
from service.store.jobs import GONE_PER_JOB, Interrupted
from service.store.keys import KeptAnswer, Key
from service.store.redis.connection import Connection
from service.store.redis.watch import RedisWatch
from service.store.shared.headers import pack_headers, unpack_headers
from service.store.shared.rows import SKIPPED, SUSPECT, EventRow, Limits, New, News, Row

log = logging.getLogger(__name__)

#: Seconds after which a process that does not renew its lease is dead to the others. One that lives renews it every
#: second, and after a hanging call at the latest in 4 s.
LEASE_S = 10.0
_LEASE_MS = int(LEASE_S * 1000)


class RedisRecords:
    """What this process writes and reads; its jobs and keys are its own while it renews its lease.

    Leases expire too while the server is away. So this process takes jobs of others over only if the server has
    answered for ``patience_s``: all others have renewed theirs by then.
    """

    def __init__(self, connection: Connection, patience_s: float = LEASE_S) -> None:
        self.owner = os.urandom(8).hex()
        self.changes = RedisWatch(connection)
        self._run, self._connection, self._patience_s = connection.run, connection, patience_s

    async def join(self) -> None:
        """As ``JobRecords.join``; a server that does not answer is waited for. Raises StoreRefused."""
        await self._connection.check()

    async def leave(self) -> None:
        """As ``JobRecords.leave``."""
        self.changes.close()
        await self._run("leave", self.owner, SKIPPED)

    async def add(self, news: News, new: New, now: float, limits: Limits) -> None:
        """As ``JobRecords.add``."""
        recipe, progress = await asyncio.to_thread(new.recipe), to_json(news.progress)
        about = (new.client, new.model, repr(new.created), news.state, progress, news.size, news.about)
        bounds = _bounds(limits.jobs)
        told, *held = await self._run(
            "add", self.owner, _LEASE_MS, news.id, *about, recipe, now, bounds, limits.recipe_bytes, adding=True
        )
        if told == b"jobs-full":
            raise JobsFull(*held)
        if told == b"client-full":
            raise ClientJobsFull(*held)
        if told == b"memory":
            raise MemoryFull(int(held[0]), limits.recipe_bytes)

    async def tell(self, all_news: Sequence[News], now: float, bounds: Bounds) -> Sequence[str]:
        """As ``JobRecords.tell``."""
        packed = [each._replace(progress=to_json(each.progress)) for each in all_news]  # type: ignore[arg-type]
        return [id.decode() for id in await self._run("tell", self.owner, packed, now, _bounds(bounds))]

    async def end(self, id: str, state: State, error: bytes, data: bytes, now: float, bounds: Bounds) -> None:
        """As ``JobRecords.end``."""
        row = await self.find(id, now, bounds.keep_s)
        progress = to_json(row.progress._replace(queue_position=0, eta_ms=0.0))
        await self._run("finish", id, state, progress, row.about, error, data, now, _bounds(bounds))

    async def find(self, id: str, now: float, keep_s: float) -> Row:
        """As ``JobRecords.find``."""
        told, *row = await self._run("find", id, now, keep_s)
        _require_found(told, id, keep_s)
        return _row(row[0])

    async def of_client(self, client: str, most: int, expired: float) -> Sequence[Row]:
        """As ``JobRecords.of_client``."""
        return [_row(each) for each in await self._run("of_client", client, most, expired)]

    async def next_event(self, id: str, after: int) -> tuple[bool, int, EventRow | None] | None:
        """As ``JobRecords.next_event``."""
        found = await self._run("next_event", id, after)
        if found is None:
            return None
        ended, last, *event = found
        if not event:
            return bool(ended), int(last), None
        number, name, transient, data = event
        return bool(ended), int(last), EventRow(int(number), name.decode(), transient == b"1", data)

    async def result_of(self, id: str) -> tuple[bytes, bytes] | None:
        """As ``JobRecords.result_of``."""
        found = await self._run("result_of", id)
        return None if found is None else (found[0], found[1])

    async def remove(self, id: str, now: float, bounds: Bounds) -> None:
        """As ``JobRecords.remove``."""
        (told,) = await self._run("remove", id, now, _bounds(bounds))
        if told == b"unknown":
            raise UnknownJob(id)

    async def discard(self, id: str) -> None:
        """As ``JobRecords.discard``."""
        await self._run("discard", id)

    async def own(self) -> set[str]:
        """As ``JobRecords.own``; the lease is renewed."""
        return {id.decode() for id in await self._run("renew", self.owner, _LEASE_MS)}

    async def claim(self, full: Sequence[str]) -> Interrupted | None:
        """As ``JobRecords.claim``: a job of a process whose lease has expired, or of one that stopped."""
        patient, progress = self._connection.answering_s >= self._patience_s, to_json(JobProgress())
        dead, *found = await self._run("claim", self.owner, _LEASE_MS, full, SUSPECT, patient, progress, SKIPPED)
        for other in dead:
            told = {"owner": other.decode()}
            log.warning("a process that computed jobs has died: they are computed again", extra=told)
        if not found:
            return None
        id, client, model, created, recipe, last, crashes = found[0]
        return Interrupted(
            id.decode(), client.decode(), model.decode(), float(created), recipe, int(last), int(crashes)
        )

    async def unclaim(self, id: str) -> None:
        """As ``JobRecords.unclaim``."""
        await self._run("unclaim", self.owner, id)

    async def maintain(self, now: float, bounds: Bounds) -> int:
        """As ``JobRecords.maintain``; the lease is renewed."""
        count: int = await self._run("maintain", self.owner, _LEASE_MS, now, _bounds(bounds))
        return count

    async def claim_key(self, key: Key, fingerprint: bytes, now: float, bounds: Bounds) -> KeptAnswer | None:
        """As ``KeyRecords.claim_key``."""
        claim = (_id(key), key.client, fingerprint, now, _bounds(bounds))
        told, *answer = await self._run("claim_key", self.owner, _LEASE_MS, *claim, adding=True)
        if told == b"reused":
            raise KeyReused
        if told == b"in-use":
            raise KeyInUse
        if told == b"claimed":
            return None
        status, headers, body = answer
        return KeptAnswer(int(status), unpack_headers(headers), body)

    async def keep_key(self, key: Key, answer: KeptAnswer, now: float, bounds: Bounds) -> None:
        """As ``KeyRecords.keep_key``."""
        kept = (answer.status, pack_headers(answer.headers), answer.body, answer.size)
        await self._run("keep_key", self.owner, _id(key), *kept, now, _bounds(bounds))

    async def release_key(self, key: Key) -> None:
        """As ``KeyRecords.release_key``."""
        await self._run("release_key", self.owner, _id(key))


def _bounds(bounds: Bounds) -> Sequence[float]:
    most, most_bytes, keep_s, _ = bounds
    return most, most_bytes, keep_s, bounds.most_of_client, GONE_PER_JOB * most


def _id(key: Key) -> bytes:
    return f"{key.client}\0{key.name}".encode()


def _require_found(told: bytes, id: str, keep_s: float) -> None:
    if told == b"unknown":
        raise UnknownJob(id)
    if told == b"gone":
        raise JobExpired(id, keep_s)


def _row(found: Sequence[Any]) -> Row:
    id, client, created, last, ended, state, progress, about, error = found
    return Row(
        id.decode(),
        client.decode(),
        float(created),
        state.decode(),
        JobProgress(*from_json(progress)),
        int(last),
        None if ended is None else float(ended),
        about,
        error,
    )
