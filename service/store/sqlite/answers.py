"""Answers by Idempotency-Key as rows. Every function takes a connection first."""

import sqlite3

from service.errors import KeyInUse, KeyReused
from service.store.bounded import Bounds, Held
from service.store.keys import KeptAnswer, Key
from service.store.shared.headers import pack_headers, unpack_headers


def claim(
    db: sqlite3.Connection, owner: str, key: Key, fingerprint: bytes, now: float, bounds: Bounds
) -> KeptAnswer | None:
    """As ``KeyRecords.claim_key``."""
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
        return KeptAnswer(status, unpack_headers(headers), body)
    opened = "SELECT count(*), count(*) FILTER (WHERE client = ?) FROM answers WHERE kept IS NULL"
    count, own = db.execute(opened, (key.client,)).fetchone()
    if count >= bounds.most or own >= bounds.most_of_client:
        raise KeyInUse
    db.execute("INSERT INTO answers (client, name, fingerprint, owner) VALUES (?, ?, ?, ?)", (*key, fingerprint, owner))
    return None


def keep(db: sqlite3.Connection, owner: str, key: Key, answer: KeptAnswer, now: float, bounds: Bounds) -> None:
    """As ``KeyRecords.keep_key``."""
    number = "(SELECT coalesce(max(number), 0) + 1 FROM answers WHERE kept IS NOT NULL)"
    db.execute(
        f"UPDATE answers SET kept = ?, number = {number}, "
        "size = ?, status = ?, headers = ?, body = ? WHERE client = ? AND name = ? AND owner = ? AND kept IS NULL",
        (now, answer.size, answer.status, pack_headers(answer.headers), answer.body, *key, owner),
    )
    _trim(db, now, bounds)


def release(db: sqlite3.Connection, owner: str, key: Key) -> None:
    """As ``KeyRecords.release_key``."""
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
