"""Opens the ledger's database: its schema, its pragmas, and what SQLite's refusals mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ortforge.errors import StoreError
from ortforge.store.atomic import free_space
from ortforge.store.locks import hold

__all__ = ["SCHEMA", "connect", "database_errors"]

SCHEMA: Final = 1
"""Version of the tables; raised when they change in a way that an older ortforge would misread."""

_BUSY_S: Final = 60.0
"""How long to wait for another process's write: each takes microseconds, so this long means that it hangs."""

_CREATE: Final = """
BEGIN IMMEDIATE;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, matrix TEXT NOT NULL, matrix_digest TEXT NOT NULL,
    started TEXT NOT NULL, finished TEXT, host TEXT NOT NULL, argv TEXT NOT NULL, exit_code INTEGER, report TEXT
);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, key TEXT NOT NULL, step_id TEXT NOT NULL, kind TEXT NOT NULL,
    status TEXT NOT NULL, identity TEXT NOT NULL, host TEXT NOT NULL, started TEXT NOT NULL, seconds REAL NOT NULL,
    checksum BLOB NOT NULL, reason TEXT NOT NULL, log TEXT NOT NULL, result TEXT NOT NULL
);
CREATE INDEX attempts_by_key ON attempts (key);
CREATE INDEX attempts_done ON attempts (key) WHERE status = 'ok';
CREATE INDEX attempts_by_run ON attempts (run_id);
CREATE INDEX attempts_by_identity ON attempts (identity, kind);
CREATE TABLE cells (
    run_id TEXT NOT NULL, cell_id TEXT NOT NULL, status TEXT NOT NULL, verdict TEXT NOT NULL,
    PRIMARY KEY (run_id, cell_id)
);
INSERT INTO meta VALUES ('schema', '{schema}');
COMMIT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, and make its tables when it is new. It commits by itself, statement by statement.

    :raises StoreError: it is damaged, no ledger, written by a newer ortforge, or cannot be opened or written.
    """
    with database_errors(path):
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            version = _version(connection, path)
            if version is None:
                # SQLite does not wait for another process that makes the same database and changes its journal mode.
                with hold(path.with_suffix(".lock")):
                    version = _version(connection, path)
                    if version is None:
                        connection.execute("PRAGMA journal_mode = WAL")
                        connection.executescript(_CREATE.format(schema=SCHEMA))
                        version = SCHEMA
            if version > SCHEMA:
                raise StoreError(
                    f"The ledger {path} was written by a newer ortforge (schema {version}; this one knows {SCHEMA}).",
                    meant="Two versions of ortforge share this store.",
                    todo="Upgrade ortforge, or use another store: --store DIR.",
                )
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            # Only a write-ahead log keeps the database whole without an fsync for each commit.
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says about the ledger at ``path`` into a :class:`StoreError`."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise  # a defect of ours
    except sqlite3.Error as error:
        raise _explain(error, path) from error


def _version(connection: sqlite3.Connection, path: Path) -> int | None:
    """Return the schema's version, or ``None`` for a database that is empty still."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    if "meta" not in tables or "attempts" not in tables:
        raise StoreError(
            f"{path} is a database, and not a ledger of ortforge.",
            todo="Move it away, or use another store: --store DIR.",
        )
    row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if row is None or not str(row[0]).isdigit():
        raise _damaged(path, "its schema version is missing")
    return int(row[0])


def _explain(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or (
        code == sqlite3.SQLITE_ERROR and "no such" in str(error)
    ):
        return _damaged(path, str(error))
    if code == sqlite3.SQLITE_FULL:
        return StoreError(
            f"The disk is full: the ledger {path} could not be written. {free_space(path)}",
            todo="Free space ('ortforge cache clean' removes what no result needs) and run again: "
            "what was finished is kept.",
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(
            f"The ledger {path} has been locked by another process for {_BUSY_S:.0f} s.",
            meant="An ortforge is stopped or hangs, or the store lies on a network filesystem with poor locks.",
            todo="End that process, or use a store on a local disk: --store DIR.",
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return StoreError(
            f"The ledger {path} cannot be opened for writing: {error}.",
            meant="It or its folder belongs to another user, or is read-only.",
            todo="Use another store: --store DIR, or ORTFORGE_STORE=DIR.",
        )
    return StoreError(
        f"The ledger {path} could not be used: {error}. {free_space(path)}",
        todo="Check that disk, or use another store: --store DIR.",
    )


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        f"The ledger {path} is damaged: {why}.",
        meant="The disk or a copy lost a part of it.",
        todo=f'Move it away and run again: for f in {path}*; do mv "$f" "damaged-$(basename "$f")"; done\n'
        "Objects and environments are kept; the results of steps and the list of runs are made anew.",
    )
