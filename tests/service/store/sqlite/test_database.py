import sqlite3
from pathlib import Path

import pytest

from service.store.shared.rows import StoreRefused
from service.store.sqlite.database import Database


async def test_an_existing_store_is_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database(tmp_path / "jobs.db")
        mode = await database.read(lambda connection: connection.execute("PRAGMA journal_mode").fetchone())
        assert mode == ("wal",)
        await database.close()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE somebody_elses (id)")


async def newer(path: Path) -> None:
    database = Database(path)
    await database.read(lambda connection: connection.execute("PRAGMA user_version = 99"))
    await database.close()


async def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    foreign(tmp_path / "foreign.db")
    (tmp_path / "text.db").write_text("Not a database, and longer than its header: " + "text " * 100)
    await newer(tmp_path / "newer.db")
    says = {
        "foreign.db": "is a database of another program",
        "text.db": "file is not a database",
        "newer.db": "has version 99 of the job store's tables, and this release reads version 1",
        "no/such/folder.db": "No such file or directory",
    }
    for name, reason in says.items():
        path = tmp_path / name
        before = path.read_bytes() if path.exists() else b""
        with pytest.raises(StoreRefused, match=reason) as failure:
            Database(path)
        assert str(path) in str(failure.value)
        assert (path.read_bytes() if path.exists() else b"") == before
