"""Answers by Idempotency-Key in a SQLite file: a request that two processes get is computed by one of them."""

import asyncio
import sqlite3
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence

from pydantic_core import from_json, to_json

from service.errors import KeyInUse, KeyReused, StoreUnavailable
from service.store.bounded import Bounds, Held
from service.store.keys import KeptAnswer, Key
from service.store.sqlite.database import Database

#: Seconds before a key that could not be freed is freed again.
RETRY_S = 1.0


class SqliteKeys:
    """``KeyedAnswers`` in a file, claimed by the process that is ``owner`` there. ``clock``: seconds since 1970."""

    def __init__(self, database: Database, owner: str, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._database, self._owner, self._bounds, self._clock = database, owner, bounds, clock
        self._freeing: set[asyncio.Task[None]] = set()

    async def claim(self, key: Key, fingerprint: bytes) -> KeptAnswer | None:
        """As ``KeyedAnswers.claim``."""
        try:
            return await self._database.write(_claim, self._owner, key, fingerprint, self._clock(), self._bounds)
        except asyncio.CancelledError:
            self._free(key)  # the thread may claim it all the same
            raise

    async def keep(self, key: Key, answer: KeptAnswer) -> None:
        """As ``KeyedAnswers.keep``. Where the file cannot be written, the key is freed later, and nothing is kept."""
        try:
            await self._database.write(_keep, self._owner, key, answer, self._clock(), self._bounds)
        except BaseException as failure:
            self._free(key)
            if not isinstance(failure, StoreUnavailable):
                raise

    async def release(self, key: Key) -> None:
        """As ``KeyedAnswers.release``; later where the file cannot be written now."""
        try:
            await self._database.write(_release, self._owner, key)
        except BaseException as failure:
            self._free(key)
            if not isinstance(failure, StoreUnavailable):
                raise

    def _free(self, key: Key) -> None:
        task = asyncio.create_task(self._keep_freeing(key))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)

    async def _keep_freeing(self, key: Key) -> None:
        while True:
            try:
                await self._database.write(_release, self._owner, key)
                return
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)


def _claim(
    db: sqlite3.Connection, owner: str, key: Key, fingerprint: bytes, now: float, bounds: Bounds
) -> KeptAnswer | None:
    _trim(db, now, bounds)
    found = db.execute(
        "SELECT fingerprint, kept, status, headers, body FROM answers WHERE client = ? AND name = ?", key
    ).fetchone()
    if found is not None:
        known, kept, status, headers, body = found
        if known != fingerprint:
            raise KeyReused
        if kept is None:
            raise KeyInUse
        return KeptAnswer(status, _headers_from(headers), body)
    opened = "SELECT count(*), count(*) FILTER (WHERE client = ?) FROM answers WHERE kept IS NULL"
    count, own = db.execute(opened, (key.client,)).fetchone()
    if count >= bounds.most or own >= bounds.most_of_client:
        raise KeyInUse
    db.execute("INSERT INTO answers (client, name, fingerprint, owner) VALUES (?, ?, ?, ?)", (*key, fingerprint, owner))
    return None


def _keep(db: sqlite3.Connection, owner: str, key: Key, answer: KeptAnswer, now: float, bounds: Bounds) -> None:
    number = "(SELECT coalesce(max(number), 0) + 1 FROM answers WHERE kept IS NOT NULL)"
    db.execute(
        f"UPDATE answers SET kept = ?, number = {number}, "
        "size = ?, status = ?, headers = ?, body = ? WHERE client = ? AND name = ? AND owner = ? AND kept IS NULL",
        (now, answer.size, answer.status, _headers_to(answer.headers), answer.body, *key, owner),
    )
    _trim(db, now, bounds)


def _release(db: sqlite3.Connection, owner: str, key: Key) -> None:
    db.execute("DELETE FROM answers WHERE client = ? AND name = ? AND owner = ? AND kept IS NULL", (*key, owner))


def _trim(db: sqlite3.Connection, now: float, bounds: Bounds) -> None:
    """Remove expired answers, then the oldest of the client that holds most until the rest is within bounds."""
    db.execute("DELETE FROM answers WHERE kept + ? <= ?", (bounds.keep_s, now))
    held = "SELECT count(*), coalesce(sum(size), 0) FROM answers WHERE kept IS NOT NULL"
    while not bounds.fit(Held(*db.execute(held).fetchone())):
        clients = db.execute(f"{held.replace('FROM', ', client FROM')} GROUP BY client").fetchall()
        _, client = max((bounds.part(Held(count, size)), client) for count, size, client in clients)
        db.execute(
            "DELETE FROM answers WHERE number = "
            "(SELECT min(number) FROM answers WHERE kept IS NOT NULL AND client = ?)",
            (client,),
        )


def _headers_to(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return to_json([[b64encode(part).decode() for part in header] for header in headers])


def _headers_from(packed: bytes) -> Sequence[tuple[bytes, bytes]]:
    return [(b64decode(name), b64decode(value)) for name, value in from_json(packed)]
