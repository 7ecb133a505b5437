"""A store in a file: its locks, its disk, its size."""

import stat
from pathlib import Path

import pytest

from service.errors import JobExpired, StoreUnavailable
from service.store.bounded import Bounds
from service.store.keys import Key
from service.store.sqlite.database import Database
from service.store.sqlite.store import SqliteRecords
from tests.service.store.stores import Opened, make, opened, rows, succeed
from tests.service.store.test_contract import recipe


def database_of(store: Opened) -> Database:
    assert isinstance(store.records, SqliteRecords)
    return store.records._database


async def test_no_lock_file_is_left(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path):
        assert [*tmp_path.glob("*-owner-*")]
    assert not [*tmp_path.glob("*-owner-*")]


async def test_a_locked_file_rejects_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.sqlite.database.BUSY_S", 0.01)
    async with opened("sqlite", tmp_path) as store, opened("sqlite", tmp_path) as other:
        await database_of(other).read(lambda connection: connection.execute("BEGIN IMMEDIATE"))
        job = make("one")
        with pytest.raises(StoreUnavailable) as failure:
            await store.jobs.add(job, recipe)
        assert failure.value.status == 503
        assert failure.value.retry_after_s in {1, 2}
        with pytest.raises(StoreUnavailable):
            await store.keyed.claim(Key("client", "one"), b"body")
        await database_of(other).read(lambda connection: connection.execute("ROLLBACK"))
        await store.jobs.add(job, recipe)
        assert store.jobs.open == 1


async def test_a_full_disk_rejects_and_recovers(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        job = make("early")
        await store.jobs.add(job, recipe)

        async def pages(most: int) -> None:
            pragma = f"PRAGMA max_page_count={most}"
            await database_of(store).read(lambda connection: connection.execute(pragma).fetchall())

        await pages(1)  # as many as there are
        with pytest.raises(StoreUnavailable):
            await store.jobs.add(make("late"), lambda: bytes(100_000))
        job.add_image(bytes(100_000), 100_000)
        succeed(job)
        with pytest.raises(StoreUnavailable):
            await store.settle()
        assert (await store.jobs.get("early")).state == "succeeded"
        await pages(1 << 30)
        await store.settle()
        assert rows(tmp_path / "jobs.db", "SELECT state FROM jobs") == [("succeeded",)]


async def test_the_file_is_private_and_stays_small(tmp_path: Path) -> None:
    bounds = Bounds(100, 300_000, 600.0)
    async with opened("sqlite", tmp_path, bounds) as store:
        for number in range(40):
            job = make(str(number))
            await store.jobs.add(job, recipe)
            job.add_image(bytes(50_000), 50_000)
            succeed(job)
            await store.settle()
        assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
        assert (tmp_path / "jobs.db").stat().st_size < 4 * bounds.most_bytes
        with pytest.raises(JobExpired):
            await store.jobs.get("0")
    (held,) = rows(tmp_path / "jobs.db", "SELECT sum(length(data)) FROM events")[0]
    assert isinstance(held, int)
    assert held <= bounds.most_bytes
