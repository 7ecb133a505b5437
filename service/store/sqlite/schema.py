"""The tables of the file, and the check that a file has them."""

import sqlite3

from service.store.shared.rows import StoreRefused

#: Marks a file as ours (PRAGMA application_id): "gens".
APPLICATION_ID = 0x67656E73
#: PRAGMA user_version. Raise it with every change of the tables.
VERSION = 1

#: Pages that are free before the file is shrunk; fewer are reused.
FREE_PAGES = 1024

# A job's large parts are in `blobs`: SQLite writes a whole row when any of its columns changes.
_TABLES = """
CREATE TABLE owners (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE jobs (
  id TEXT NOT NULL UNIQUE,
  client TEXT NOT NULL,
  model TEXT NOT NULL,
  created REAL NOT NULL,
  owner TEXT,
  crashes INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL,
  fraction REAL NOT NULL DEFAULT 0,
  queue_position INTEGER NOT NULL DEFAULT 0,
  eta_ms REAL,
  last_event INTEGER NOT NULL DEFAULT 0,
  recipe_size INTEGER NOT NULL,
  size INTEGER NOT NULL,
  ended REAL,
  end_number INTEGER,
  about BLOB NOT NULL,
  error BLOB
);
CREATE INDEX jobs_open ON jobs (owner, crashes, recipe_size, size) WHERE ended IS NULL;
CREATE INDEX jobs_ended ON jobs (end_number, ended, size) WHERE ended IS NOT NULL;
CREATE INDEX jobs_of_client ON jobs (client, created);
CREATE TABLE blobs (
  job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('recipe', 'result')),
  data BLOB NOT NULL,
  PRIMARY KEY (job, kind)
);
CREATE TABLE events (
  job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  id INTEGER NOT NULL,
  name TEXT NOT NULL,
  transient INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (job, id)
);
CREATE TABLE gone (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE answers (
  client TEXT NOT NULL,
  name TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  owner TEXT,
  number INTEGER,
  kept REAL,
  size INTEGER,
  status INTEGER,
  headers BLOB,
  body BLOB,
  PRIMARY KEY (client, name)
);
CREATE INDEX answers_open ON answers (owner) WHERE kept IS NULL;
CREATE INDEX answers_kept ON answers (number, kept, size) WHERE kept IS NOT NULL;
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file; set what holds for a connection. Raises StoreRefused, sqlite3.Error."""
    mark, version = (_number(connection, name) for name in ("application_id", "user_version"))
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if not (mark == version == 0 and empty):
        _check(connection, mark, version)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect before the first table only
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    if empty:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; "
            "COMMIT;"
        )


def shrink(connection: sqlite3.Connection) -> None:
    """Give pages back to the file system where many are free."""
    if _number(connection, "freelist_count") > FREE_PAGES:
        connection.execute(f"PRAGMA incremental_vacuum({FREE_PAGES})").fetchall()


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection has changed the file."""
    return _number(connection, "data_version")


def _check(connection: sqlite3.Connection, mark: int, version: int) -> None:
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    if mark != APPLICATION_ID:
        raise StoreRefused(f"{path} is a database of another program, not a job store.")
    if version != VERSION:
        raise StoreRefused(
            f"{path} has version {version} of the job store's tables, and this release reads version {VERSION}. "
            "Use the release that wrote it, or another file."
        )


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return number
