"""The ledger: one row per attempt at a step, per judged cell and per run.

``synchronous=NORMAL`` with a write-ahead log: a commit is in the kernel's hands when it returns, so a killed
process loses nothing that was recorded (at most the step in flight). Only a power failure can lose the last
commits, never the database; those steps are then done again. FULL would add an fsync, milliseconds, to each step
of a run of thousands, to save what can be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

from ortforge.store.database import connect, database_errors
from ortforge.store.hashing import canonical

__all__ = ["CellRecord", "KindRecord", "Ledger", "RunRecord", "StepRecord"]

_CHUNK: Final = 900
"""Keys per query: SQLite before 3.32 takes 999 parameters at most."""

_ATTEMPT: Final = "key, step_id, kind, status, identity, result, reason, log, seconds, started, checksum"
_RUN: Final = "id, matrix, matrix_digest, started, finished, host, argv, exit_code"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One attempt at a step.

    :param status: ``ok``, or what went wrong; see ``ortforge.api.TaskOutcome``.
    :param identity: digest of what it made, ``""`` unless ``ok``.
    :param seconds: how long it took; :param started: when, ISO 8601 in UTC.
    """

    key: str
    step_id: str
    kind: str
    status: str
    identity: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    log: str = ""
    seconds: float = 0.0
    started: str = ""


@dataclass(frozen=True, slots=True)
class CellRecord:
    """A cell's verdict in one run."""

    cell_id: str
    status: str
    verdict: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One execution of a plan.

    :param finished: ISO 8601 in UTC; ``None``, as ``exit_code`` and ``report``, when the run was ended early.
    :param report: the whole report; left empty (``{}``) in lists of runs, for it may be large.
    """

    id: str
    matrix: str
    matrix_digest: str
    started: str
    finished: str | None
    host: str
    argv: tuple[str, ...]
    exit_code: int | None
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class KindRecord:
    """How many attempts of a kind of step the ledger holds, and when the latest was made."""

    kind: str
    attempts: int
    latest: str


class Ledger:
    """The ledger at ``path``. May be used from several threads (one at a time gets in) and processes.

    :raises StoreError: also of every method: the database is damaged, cannot be written, is locked for a minute …
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection = connect(path)
        self._owner = os.getpid()
        self._inherited: list[sqlite3.Connection] = []

    def close(self) -> None:
        """Close the database; the ledger cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def start_run(self, *, matrix: str = "", matrix_digest: str = "", host: str = "", argv: Sequence[str] = ()) -> str:
        """Note that a run starts; return its id, such as ``20261122-181530-ab12``: sorted by time, in UTC."""
        now = datetime.now(UTC)
        facts = (_text(matrix), matrix_digest, _stamp(now), _text(host or os.uname().nodename), _json(list(argv)))
        with self._database() as database:
            while True:
                run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
                with suppress(sqlite3.IntegrityError):  # two runs in one second with one random part
                    database.execute(
                        "INSERT INTO runs (id, matrix, matrix_digest, started, host, argv) VALUES (?, ?, ?, ?, ?, ?)",
                        (run_id, *facts),
                    )
                    return run_id

    def finish_run(self, run_id: str, *, exit_code: int, report: Mapping[str, Any]) -> None:
        """Note that a run ended, and keep its report.

        :raises TypeError: the report has no JSON form; the message says where.
        """
        facts = (_stamp(datetime.now(UTC)), exit_code, _json(report), run_id)
        with self._database() as database:
            database.execute("UPDATE runs SET finished = ?, exit_code = ?, report = ? WHERE id = ?", facts)

    def amend_report(self, run_id: str, report: Mapping[str, Any]) -> None:
        """Keep another report of a run that has ended; when and how it ended stays as it was.

        :raises TypeError: the report has no JSON form; the message says where.
        """
        with self._database() as database:
            database.execute("UPDATE runs SET report = ? WHERE id = ?", (_json(report), run_id))

    def runs(self) -> list[RunRecord]:
        """Return all runs, latest first, without their reports."""
        query = f"SELECT {_RUN}, CASE WHEN report IS NULL THEN NULL ELSE '{{}}' END FROM runs ORDER BY number DESC"  # noqa: S608
        return [_run(row) for row in self._rows(query)]

    def run(self, run_id: str) -> RunRecord | None:
        """Return one run with its report, or ``None`` when there is none of that id."""
        rows = self._rows(f"SELECT {_RUN}, report FROM runs WHERE id = ?", (run_id,))  # noqa: S608
        return _run(rows[0]) if rows else None

    def latest_run(self, matrix_path: str | os.PathLike[str] | None = None) -> RunRecord | None:
        """Return the latest run, finished or not, with its report; of one matrix file, when that is given."""
        where, values = ("WHERE matrix = ?", (os.fspath(matrix_path),)) if matrix_path is not None else ("", ())
        rows = self._rows(f"SELECT {_RUN}, report FROM runs {where} ORDER BY number DESC LIMIT 1", values)  # noqa: S608
        return _run(rows[0]) if rows else None

    def record(self, run_id: str, record: StepRecord, *, host: str = "") -> None:
        """Keep an attempt. When this returns, killing the process does not lose it.

        :param host: where it ran; this machine unless said.
        :raises TypeError: the result has no JSON form; the message says where.
        """
        result, reason, log = _json(record.result), _text(record.reason), _text(record.log)
        values = (
            run_id,
            record.key,
            record.step_id,
            record.kind,
            record.status,
            record.identity,
            host or os.uname().nodename,
            record.started or _stamp(datetime.now(UTC)),
            record.seconds,
            _checksum(record.key, record.kind, record.status, record.identity, result),
            reason,
            log,
            result,
        )
        columns = "run_id, key, step_id, kind, status, identity, host, started, seconds, checksum, reason, log, result"
        places = ", ".join("?" * len(values))
        with self._database() as database:
            database.execute(f"INSERT INTO attempts ({columns}) VALUES ({places})", values)  # noqa: S608

    def done(self, key: str) -> StepRecord | None:
        """Return the latest successful attempt under a key. Neither a failure nor a damaged row is ever a result."""
        return self._latest(key, "AND status = 'ok'")

    def last(self, key: str) -> StepRecord | None:
        """Return the latest attempt under a key, whatever became of it."""
        return self._latest(key, "")

    def done_many(self, keys: Iterable[str], *, brief: bool = False) -> dict[str, StepRecord]:
        """Return what :meth:`done` gives for many keys; keys without a successful attempt are left out.

        :param brief: leave ``result`` and ``log`` empty, unread and unchecked: enough to lay out a plan, and much
            lighter where results are large.
        """
        return self._latest_many(keys, "AND status = 'ok'", brief=brief)

    def last_many(self, keys: Iterable[str], *, brief: bool = False) -> dict[str, StepRecord]:
        """Return what :meth:`last` gives for many keys; see :meth:`done_many`."""
        return self._latest_many(keys, "", brief=brief)

    def last_done_of_steps(self, step_ids: Iterable[str]) -> dict[str, StepRecord]:
        """Return the latest successful attempt at each step, under whatever key; steps without one are left out."""
        found: dict[str, StepRecord] = {}
        for chunk in _chunks(dict.fromkeys(step_ids)):
            condition = f"WHERE step_id IN ({_places(chunk)}) AND status = 'ok' GROUP BY step_id"
            latest = f"SELECT MAX(id) FROM attempts {condition}"  # noqa: S608
            rows = self._rows(f"SELECT {_ATTEMPT} FROM attempts WHERE id IN ({latest})", chunk)  # noqa: S608
            found |= {record.step_id: record for record in map(_attempt, rows) if record is not None}
        return found

    def attempts(self, run_id: str) -> list[StepRecord]:
        """Return a run's attempts in the order in which they ended; damaged rows are left out."""
        rows = self._rows(f"SELECT {_ATTEMPT} FROM attempts WHERE run_id = ? ORDER BY id", (run_id,))  # noqa: S608
        return [record for record in map(_attempt, rows) if record is not None]

    def forget(
        self,
        keys: Iterable[str] | None = None,
        *,
        kind: str | None = None,
        identities: Iterable[str] | None = None,
        before: datetime | None = None,
    ) -> int:
        """Remove attempts, so that their steps are done again; return how many. Reports of runs are kept.

        :param keys: under these keys, or :param kind: of this kind, or :param identities: that made these.
        :param before: of those, only the ones that started earlier.
        :raises TypeError: none or several of the three are given.
        """
        given = [
            (name, value)
            for name, value in (("key", keys), ("kind", kind), ("identity", identities))
            if value is not None
        ]
        if len(given) != 1:
            raise TypeError("forget() takes keys, or a kind, or identities")
        column, wanted = given[0]
        age, values = (" AND started < ?", (_stamp(before),)) if before is not None else ("", ())
        forgotten = 0
        with self._database() as database:
            database.execute("SAVEPOINT forget")
            try:
                for chunk in _chunks([wanted] if isinstance(wanted, str) else wanted):
                    query = f"DELETE FROM attempts WHERE {column} IN ({_places(chunk)}){age}"  # noqa: S608
                    forgotten += database.execute(query, (*chunk, *values)).rowcount
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK TO forget")
                raise
            finally:
                if database.in_transaction:
                    database.execute("RELEASE forget")
        return forgotten

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Undo at the end what is done inside: to tell what :meth:`forget` would do. Other processes wait meanwhile."""
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    def record_cell(self, run_id: str, cell_id: str, status: str, verdict: Mapping[str, Any]) -> None:
        """Keep a cell's verdict; a later one of the same run replaces it.

        :raises TypeError: the verdict has no JSON form; the message says where.
        """
        with self._database() as database:
            database.execute(
                "INSERT OR REPLACE INTO cells (run_id, cell_id, status, verdict) VALUES (?, ?, ?, ?)",
                (run_id, cell_id, status, _json(verdict)),
            )

    def cells(self, run_id: str) -> list[CellRecord]:
        """Return a run's cells in the order in which they were judged last; damaged rows are left out."""
        rows = self._rows("SELECT cell_id, status, verdict FROM cells WHERE run_id = ? ORDER BY rowid", (run_id,))
        found = []
        for cell_id, status, text in rows:
            with suppress(ValueError):
                found.append(CellRecord(cell_id, status, json.loads(text)))
        return found

    def kinds(self) -> list[KindRecord]:
        """Return how many attempts there are of each kind of step."""
        rows = self._rows("SELECT kind, COUNT(*), MAX(started) FROM attempts GROUP BY kind ORDER BY kind")
        return [KindRecord(*row) for row in rows]

    def makers(self) -> dict[str, list[str]]:
        """Return, for each identity that a successful attempt made, the kinds of steps that made it."""
        query = "SELECT identity, kind FROM attempts WHERE status = 'ok' AND identity <> '' GROUP BY identity, kind"
        found: dict[str, list[str]] = {}
        for identity, kind in self._rows(f"{query} ORDER BY MIN(id)"):
            found.setdefault(identity, []).append(kind)
        return found

    def shrink(self) -> None:
        """Give the disk back what forgotten rows took; skipped while another process uses the ledger."""
        with self._database() as database, suppress(sqlite3.OperationalError):
            database.execute("PRAGMA busy_timeout = 0")
            try:
                database.execute("VACUUM")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                database.execute("PRAGMA busy_timeout = 60000")

    def _latest(self, key: str, condition: str) -> StepRecord | None:
        query = f"SELECT {_ATTEMPT} FROM attempts WHERE key = ? {condition} ORDER BY id DESC LIMIT 1 OFFSET ?"  # noqa: S608
        for skipped in count():
            rows = self._rows(query, (key, skipped))
            if not rows:
                break
            record = _attempt(rows[0])
            if record is not None:
                return record
        return None

    def _latest_many(self, keys: Iterable[str], condition: str, *, brief: bool) -> dict[str, StepRecord]:
        columns = _ATTEMPT.replace("result", "NULL").replace("log", "''") if brief else _ATTEMPT
        found: dict[str, StepRecord] = {}
        for chunk in _chunks(dict.fromkeys(keys)):
            latest = f"SELECT MAX(id) FROM attempts WHERE key IN ({_places(chunk)}) {condition} GROUP BY key"  # noqa: S608
            for row in self._rows(f"SELECT {columns} FROM attempts WHERE id IN ({latest})", chunk):  # noqa: S608
                record = _attempt(row) or self._latest(row[0], condition)
                if record is not None:
                    found[record.key] = record
        return found

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._database() as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "decode" not in str(error):
                    raise
            # A damaged text must not make the rows around it unreadable: its checksum tells of it.
            database.text_factory = partial(str, encoding="utf-8", errors="replace")
            try:
                return database.execute(query, values).fetchall()
            finally:
                database.text_factory = str

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._lock, database_errors(self.path):
            if self._owner != os.getpid():  # SQLite forbids using a connection across a fork, even to close it
                self._inherited.append(self._connection)
                self._connection, self._owner = connect(self.path), os.getpid()
            yield self._connection


def _attempt(row: Sequence[Any]) -> StepRecord | None:
    """Make a record of a row; ``None`` when its checksum tells that it was damaged."""
    key, step_id, kind, status, identity, text, reason, log, seconds, started, checksum = row
    result: Mapping[str, Any] = {}
    if text is not None:
        try:
            if _checksum(key, kind, status, identity, text) != checksum:
                return None
            result = json.loads(text)
        except (TypeError, ValueError):  # a damaged column may even come back as another type
            return None
    return StepRecord(key, step_id, kind, status, identity, result, reason, log, seconds, started)


def _run(row: Sequence[Any]) -> RunRecord:
    run_id, matrix, matrix_digest, started, finished, host, argv, exit_code, text = row
    report = None
    if text is not None:
        with suppress(ValueError):
            report = json.loads(text)
    arguments = tuple(json.loads(argv))
    return RunRecord(run_id, matrix, matrix_digest, started, finished, host, arguments, exit_code, report)


def _checksum(*fields: str) -> bytes:
    return hashlib.blake2b("\0".join(fields).encode(), digest_size=8).digest()


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        canonical(value)  # raises the same complaint with the place in the value
        raise


def _text(value: str) -> str:
    """Make text storable: a log may hold what is not valid Unicode."""
    return value.encode("utf-8", "backslashreplace").decode()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _places(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))


def _chunks(values: Iterable[str]) -> Iterator[tuple[str, ...]]:
    rest = iter(values)
    while chunk := tuple(islice(rest, _CHUNK)):
        yield chunk
