"""Jobs as rows: what is written and read in one transaction each. Every function takes a connection first."""

import sqlite3
from collections.abc import Sequence

from service.errors import ClientJobsFull, JobExpired, JobsFull, MemoryFull, UnknownJob
from service.store.bounded import Bounds, Held
from service.store.job import JobProgress, State
from service.store.jobs import GONE_PER_JOB, Interrupted
from service.store.shared.rows import SKIPPED, SUSPECT, EventRow, Limits, New, News, Row

_ROW = "id, client, created, state, fraction, queue_position, eta_ms, last_event, ended, about, error"
_NOW = "UPDATE jobs SET state = ?, fraction = ?, queue_position = ?, eta_ms = ?, last_event = ?, about = ?, error = ?"


def add(db: sqlite3.Connection, owner: str, news: News, new: New, now: float, limits: Limits) -> None:
    """Add an open job. Raises JobsFull, ClientJobsFull, MemoryFull."""
    recipe = new.recipe()
    count, held = db.execute("SELECT count(*), coalesce(sum(recipe_size), 0) FROM jobs WHERE ended IS NULL").fetchone()
    if count >= limits.jobs.most:
        raise JobsFull(limits.jobs.most)
    if (own := _open_of_client(db, new.client)) >= limits.jobs.most_of_client:
        raise ClientJobsFull(own)
    if held + len(recipe) > limits.recipe_bytes:
        raise MemoryFull(held, limits.recipe_bytes)
    db.execute(
        "INSERT INTO jobs (id, client, model, created, owner, state, recipe_size, size, about) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (news.id, new.client, new.model, new.created, owner, news.state, len(recipe), news.size, news.about),
    )
    db.execute("INSERT INTO blobs (job, kind, data) VALUES (?, 'recipe', ?)", (news.id, recipe))
    trim(db, now, limits.jobs, new.client)


def tell(db: sqlite3.Connection, owner: str | None, all_news: Sequence[News], now: float, bounds: Bounds) -> list[str]:
    """Write news of open jobs of ``owner`` (None: of any). Returns the ids of those that are not its, or have ended."""
    lost = [news.id for news in all_news if not _tell(db, owner, news, now)]
    trim(db, now, bounds)
    return lost


def end(db: sqlite3.Connection, id: str, state: State, error: bytes, data: bytes, now: float, bounds: Bounds) -> None:
    """End a job, whichever process computes it, with an ``error`` whose event has ``data``; no effect on ended ones.

    Raises JobExpired, UnknownJob.
    """
    row = find(db, id, now, bounds.keep_s)
    (size,) = db.execute("SELECT size FROM jobs WHERE id = ?", (id,)).fetchone()
    (events,) = db.execute("SELECT coalesce(sum(length(data)), 0) FROM events WHERE job = ?", (id,)).fetchone()
    last = row.last_event + 1
    tell(
        db,
        None,
        [
            News(
                id,
                state,
                row.progress._replace(queue_position=0, eta_ms=0.0),
                last,
                size - events,
                row.about,
                [EventRow(last, "error", False, data)],
                ended=True,
                error=error,
            )
        ],
        now,
        bounds,
    )


def find(db: sqlite3.Connection, id: str, now: float, keep_s: float) -> Row:
    """The job of that id. Raises JobExpired, UnknownJob."""
    found = db.execute(f"SELECT {_ROW} FROM jobs WHERE id = ?", (id,)).fetchone()
    row = None if found is None else _row(found)
    if row is not None and (row.ended is None or now < row.ended + keep_s):
        return row
    if row is not None or db.execute("SELECT 1 FROM gone WHERE id = ?", (id,)).fetchone():
        raise JobExpired(id, keep_s)
    raise UnknownJob(id)


def of_client(db: sqlite3.Connection, client: str, most: int, expired: float) -> list[Row]:
    """The newest ``most`` jobs of a client that did not end before ``expired``, newest first."""
    where = "client = ? AND (ended IS NULL OR ended > ?)"
    found = db.execute(
        f"SELECT {_ROW} FROM jobs WHERE {where} ORDER BY created DESC, rowid DESC LIMIT ?", (client, expired, most)
    )
    return [_row(each) for each in found]


def next_event(db: sqlite3.Connection, id: str, after: int) -> tuple[bool, int, EventRow | None] | None:
    """Whether the job has ended, the id of its last event, and the first kept event after ``after``; None: no job."""
    found = db.execute(
        "SELECT jobs.ended IS NOT NULL, jobs.last_event, events.id, events.name, events.transient, events.data "
        "FROM jobs LEFT JOIN events ON events.job = jobs.id AND events.id > ? WHERE jobs.id = ? "
        "ORDER BY events.id LIMIT 1",
        (after, id),
    ).fetchone()
    if found is None:
        return None
    ended, last, *event = found
    return bool(ended), last, None if event[0] is None else EventRow(event[0], event[1], bool(event[2]), event[3])


def result_of(db: sqlite3.Connection, id: str) -> tuple[bytes, bytes] | None:
    """The packed result of a job and the data of its last event; None where it has none, or is gone."""
    found: tuple[bytes, bytes] | None = db.execute(
        "SELECT blobs.data, events.data FROM jobs JOIN blobs ON blobs.job = jobs.id AND kind = 'result' "
        "JOIN events ON events.job = jobs.id AND events.id = jobs.last_event WHERE jobs.id = ?",
        (id,),
    ).fetchone()
    return found


def remove(db: sqlite3.Connection, id: str, now: float, bounds: Bounds) -> None:
    """Remove a job. An expired one stays expired. Raises UnknownJob."""
    try:
        find(db, id, now, bounds.keep_s)
    except JobExpired:
        return
    _remove(db, id)
    _forget_oldest(db, bounds)


def discard(db: sqlite3.Connection, id: str) -> None:
    """Remove a job as if it had not been added."""
    db.execute("DELETE FROM jobs WHERE id = ?", (id,))


def open_of(db: sqlite3.Connection, owner: str) -> set[str]:
    """The ids of the open jobs of ``owner``."""
    return {id for (id,) in db.execute("SELECT id FROM jobs WHERE ended IS NULL AND owner = ?", (owner,))}


def ended_of(db: sqlite3.Connection, owner: str) -> int:
    """The number of jobs that ended with ``owner``."""
    count: int = db.execute("SELECT count(*) FROM jobs WHERE ended IS NOT NULL AND owner = ?", (owner,)).fetchone()[0]
    return count


def join(db: sqlite3.Connection, owner: str) -> None:
    """Record a process that owns jobs; it now counts the ended ones that no process owns."""
    db.execute("INSERT INTO owners (id) VALUES (?)", (owner,))
    _inherit(db, owner)


def leave(db: sqlite3.Connection, owner: str) -> None:
    """Give back the open jobs and the claimed keys of a process that stops."""
    _free(db, owner, crashes=0)
    _drop_owner(db, owner)


def others(db: sqlite3.Connection, owner: str) -> list[str]:
    """The owners beside ``owner``."""
    return [id for (id,) in db.execute("SELECT id FROM owners WHERE id <> ?", (owner,))]


def bury(db: sqlite3.Connection, owner: str, dead: str) -> None:
    """Free the open jobs and the claimed keys of a dead process; ``owner`` now counts the jobs that it ended."""
    _free(db, dead, crashes=1)
    _drop_owner(db, dead)
    _inherit(db, owner)


def any_unclaimed(db: sqlite3.Connection) -> bool:
    """Whether there is an open job that no process computes."""
    return db.execute("SELECT 1 FROM jobs WHERE ended IS NULL AND owner IS NULL LIMIT 1").fetchone() is not None


def claim(db: sqlite3.Connection, owner: str, full: Sequence[str]) -> Interrupted | None:
    """The oldest open job that nobody computes, now owned by ``owner``, its events removed; None without one.

    Jobs of the models ``full`` are left out.
    """
    found = db.execute(
        "SELECT id, client, model, created, last_event, crashes, data "
        "FROM jobs JOIN blobs ON job = id AND kind = 'recipe' "
        f"WHERE ended IS NULL AND owner IS NULL AND model NOT IN ({', '.join('?' * len(full))}) "
        "AND (crashes < ? OR NOT EXISTS ("
        "SELECT 1 FROM jobs WHERE ended IS NULL AND owner IS NOT NULL AND crashes >= ?)) "
        "ORDER BY crashes, created LIMIT 1",
        (*full, SUSPECT, SUSPECT),
    ).fetchone()
    if found is None:
        return None
    id, client, model, created, last_event, crashes, recipe = found
    db.execute(
        "UPDATE jobs SET owner = ?, state = 'queued', fraction = 0, queue_position = 0, eta_ms = NULL WHERE id = ?",
        (owner, id),
    )
    db.execute("DELETE FROM events WHERE job = ?", (id,))
    return Interrupted(id, client, model, created, recipe, last_event, crashes)


def unclaim(db: sqlite3.Connection, id: str, owner: str) -> None:
    """Leave an open job of ``owner`` to the next process that claims one."""
    db.execute("UPDATE jobs SET owner = NULL WHERE id = ? AND owner = ? AND ended IS NULL", (id, owner))


def trim(db: sqlite3.Connection, now: float, bounds: Bounds, adding: str | None = None) -> None:
    """Remove expired jobs, then those that ended first of the client that holds most, until the rest is within bounds.

    Raises ClientJobsFull where ``adding``, the client that has just added a job, would take from one that holds less.
    """
    expired = db.execute("SELECT id FROM jobs WHERE ended + ? <= ? ORDER BY end_number", (bounds.keep_s, now))
    leaving = [id for (id,) in expired]
    for id in leaving:
        _remove(db, id)
    while not _fits(db, bounds) and (largest := _largest(db, bounds)) is not None:
        client, part = largest
        if adding is not None and _part(db, adding, bounds) > part:
            raise ClientJobsFull(_open_of_client(db, adding) - 1)
        (id,) = db.execute(
            "SELECT id FROM jobs WHERE client = ? AND ended IS NOT NULL ORDER BY end_number LIMIT 1", (client,)
        ).fetchone()
        _remove(db, id)
        leaving.append(id)
    if leaving:
        _forget_oldest(db, bounds)


_HELD = "count(*), coalesce(sum(size), 0)"


def _fits(db: sqlite3.Connection, bounds: Bounds) -> bool:
    # Two queries, each on an index of its own.
    held = [db.execute(f"SELECT {_HELD} FROM jobs WHERE ended IS {which}").fetchone() for which in ("NULL", "NOT NULL")]
    return bounds.fit(Held(*map(sum, zip(*held, strict=True))))


def _largest(db: sqlite3.Connection, bounds: Bounds) -> tuple[str, float] | None:
    """The client with ended jobs that holds most, and the part of the bounds that it holds; None if there is none."""
    held = db.execute(f"SELECT {_HELD}, client FROM jobs GROUP BY client HAVING count(ended) > 0").fetchall()
    parts = [(bounds.part(Held(count, size)), client) for count, size, client in held]
    part, client = max(parts, default=(0.0, None))
    return None if client is None else (client, part)


def _part(db: sqlite3.Connection, client: str, bounds: Bounds) -> float:
    return bounds.part(Held(*db.execute(f"SELECT {_HELD} FROM jobs WHERE client = ?", (client,)).fetchone()))


def _open_of_client(db: sqlite3.Connection, client: str) -> int:
    found = db.execute("SELECT count(*) FROM jobs WHERE client = ? AND ended IS NULL", (client,)).fetchone()
    count: int = found[0]
    return count


def _tell(db: sqlite3.Connection, owner: str | None, news: News, now: float) -> bool:
    done = db.execute(
        f"{_NOW} WHERE id = ? AND ended IS NULL AND (? IS NULL OR owner = ?)",
        (news.state, *news.progress, news.last_event, news.about, news.error, news.id, owner, owner),
    )
    if not done.rowcount:
        return False
    rows = [(news.id, *event) for event in news.events]
    # Replaced where a request was cancelled that had begun to write them.
    db.executemany("INSERT OR REPLACE INTO events (job, id, name, transient, data) VALUES (?, ?, ?, ?, ?)", rows)
    db.execute("DELETE FROM events WHERE job = ? AND transient AND id < ?", (news.id, news.transient_from))
    if news.ended:
        db.execute("DELETE FROM blobs WHERE job = ?", (news.id,))
        if news.result is not None:
            db.execute("INSERT INTO blobs (job, kind, data) VALUES (?, 'result', ?)", (news.id, news.result))
        number = "(SELECT coalesce(max(end_number), 0) + 1 FROM jobs WHERE ended IS NOT NULL)"
        db.execute(f"UPDATE jobs SET ended = ?, end_number = {number} WHERE id = ?", (now, news.id))
    kept = "(SELECT coalesce(sum(length(data)), 0) FROM events WHERE job = jobs.id)"
    size = news.size + len(news.result or b"")
    db.execute(f"UPDATE jobs SET size = ? + {kept} WHERE id = ?", (size, news.id))
    return True


def _free(db: sqlite3.Connection, owner: str, crashes: int) -> None:
    db.execute(
        "UPDATE jobs SET owner = NULL, crashes = crashes + ?, last_event = last_event + ? "
        "WHERE ended IS NULL AND owner = ?",
        (crashes, SKIPPED, owner),
    )


def _row(found: Sequence[object]) -> Row:
    id, client, created, state, fraction, position, eta_ms, *rest = found
    return Row(id, client, created, state, JobProgress(fraction, position, eta_ms), *rest)  # type: ignore[arg-type]


def _remove(db: sqlite3.Connection, id: str) -> None:
    db.execute("DELETE FROM jobs WHERE id = ?", (id,))
    db.execute("INSERT OR IGNORE INTO gone (id) VALUES (?)", (id,))


def _forget_oldest(db: sqlite3.Connection, bounds: Bounds) -> None:
    most = GONE_PER_JOB * bounds.most
    db.execute("DELETE FROM gone WHERE number <= (SELECT max(number) FROM gone) - ?", (most,))


def _drop_owner(db: sqlite3.Connection, owner: str) -> None:
    db.execute("DELETE FROM answers WHERE kept IS NULL AND owner = ?", (owner,))
    db.execute("DELETE FROM owners WHERE id = ?", (owner,))


def _inherit(db: sqlite3.Connection, owner: str) -> None:
    db.execute("UPDATE jobs SET owner = ? WHERE ended IS NOT NULL AND owner NOT IN (SELECT id FROM owners)", (owner,))
