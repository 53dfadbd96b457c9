"""The ledger keeps what was recorded through kills, company and damage, and never gives a failure for a result."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import ortforge
from ortforge.errors import StoreError
from ortforge.store.hashing import digest_json
from ortforge.store.ledger import Ledger, StepRecord

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(ortforge.__file__).parents[1])}


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that can import ortforge."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def attempt(key: str, status: str = "ok", kind: str = "check", **more: object) -> StepRecord:
    facts = {"identity": f"made by {key}" if status == "ok" else "", "result": {"status": status}, **more}
    return StepRecord(key, f"{kind}:{key}", kind, status, **facts)  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    yield ledger
    ledger.close()


def damage(path: Path, statement: str, *values: object) -> None:
    """Change the database behind the ledger's back."""
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_a_record_comes_back_as_it_was_written(ledger: Ledger) -> None:
    run = ledger.start_run(matrix="matrix.toml")
    record = StepRecord(
        key="ab" * 20,
        step_id="check:vad/int8@stock",
        kind="check",
        status="ok",
        identity="cd" * 20,
        result={"placement": {"nodes": {"CPU": 12}}, "name": "naïve \U0001f600 \x00", "samples": [1, 2.5, None, True]},
        reason="",
        log="2026-11-22 [W:onnxruntime] …\n",
        seconds=1.25,
        started="2026-11-22T18:15:30+00:00",
    )
    ledger.record(run, record)
    assert ledger.done(record.key) == record
    assert ledger.last(record.key) == record
    assert ledger.attempts(run) == [record]


def test_a_failure_is_recorded_and_never_a_result(ledger: Ledger) -> None:
    run = ledger.start_run()
    failure = attempt("k", "crashed", reason="signal SIGSEGV", started="2026-11-22T18:15:30+00:00")
    ledger.record(run, failure)
    assert ledger.done("k") is None
    assert ledger.done_many(["k"]) == {}
    assert ledger.last("k") == failure
    assert ledger.last_many(["k", "other"]) == {"k": failure}


def test_the_latest_success_counts_whatever_came_after(ledger: Ledger) -> None:
    run = ledger.start_run()
    for number, status in enumerate(("failed", "ok", "ok", "timeout")):
        ledger.record(run, attempt("k", status, result={"number": number}))
    assert [found.result["number"] for found in ledger.done_many(["k"]).values()] == [2]
    done, last = ledger.done("k"), ledger.last("k")
    assert done is not None and done.result == {"number": 2}
    assert last is not None and last.status == "timeout"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE attempts SET result = replace(result, '0.99', '0.98')",
        "UPDATE attempts SET result = substr(result, 1, 10)",
        "UPDATE attempts SET identity = 'another'",
        "UPDATE attempts SET status = 'ok' WHERE status <> 'ok'",
        "UPDATE attempts SET result = CAST(x'7bff7d' AS TEXT)",
        "UPDATE attempts SET log = CAST(x'ff' AS TEXT), result = CAST(x'ff' AS TEXT)",
        "UPDATE attempts SET result = x'7b7d'",
        "UPDATE attempts SET key = 'k', identity = 5",
    ],
)
def test_a_damaged_row_is_absent_and_the_one_before_it_counts(ledger: Ledger, change: str) -> None:
    run = ledger.start_run()
    ledger.record(run, attempt("k", result={"cosine": 0.99}))
    ledger.record(run, attempt("sound", result={"cosine": 1.0}))
    newest = attempt("k", "crashed" if "<> 'ok'" in change else "ok", result={"cosine": 0.99, "again": True})
    ledger.record(run, newest)
    limit = "AND" if "WHERE" in change else "WHERE"
    damage(ledger.path, f"{change} {limit} id = 3")
    earlier = ledger.done("k")
    assert earlier is not None
    assert earlier.result == {"cosine": 0.99}
    assert {key: found.result for key, found in ledger.done_many(["k", "sound"]).items()} == {
        "k": {"cosine": 0.99},
        "sound": {"cosine": 1.0},
    }
    damage(ledger.path, "UPDATE attempts SET checksum = x'00' WHERE id = 1")
    assert ledger.done("k") is None
    assert set(ledger.done_many(["k", "sound"])) == {"sound"}


def test_a_result_of_megabytes_and_a_log_that_is_no_unicode_are_kept(ledger: Ledger) -> None:
    run = ledger.start_run()
    samples = list(range(300_000))
    ledger.record(run, attempt("k", result={"samples": samples}, log="bad \udcff byte"))
    found = ledger.done("k")
    assert found is not None
    assert found.result["samples"] == samples
    assert found.log == "bad \\udcff byte"


def test_a_result_that_json_cannot_say_is_refused_with_its_place(ledger: Ledger) -> None:
    with pytest.raises(TypeError, match=r"value\['snr'\] is nan"):
        ledger.record("run", attempt("k", result={"snr": float("nan")}))
    assert ledger.last("k") is None


def test_fifty_thousand_keys_are_looked_up_at_once(ledger: Ledger) -> None:
    run = ledger.start_run()
    keys = [digest_json(number) for number in range(50_000)]
    ledger._connection.execute("BEGIN")  # one commit, to make ready faster
    for key in keys[::2]:
        ledger.record(run, attempt(key, result={"cosine": 0.99, "outputs": {"x": [1, 2, 3]}}))
    ledger._connection.execute("COMMIT")
    random.Random(1).shuffle(keys)
    begin = time.process_time()
    found = ledger.done_many(iter(keys))
    full = time.process_time() - begin
    assert len(found) == 25_000
    assert all(record.key == key for key, record in found.items())
    assert full < 3.0  # about 0.3 s; the margin is for a machine that is busy
    brief = ledger.done_many(keys, brief=True)
    assert brief.keys() == found.keys()
    assert all(not record.result and record.identity == found[key].identity for key, record in brief.items())


def test_runs_are_listed_latest_first_and_keep_their_reports(ledger: Ledger, tmp_path: Path) -> None:
    first = ledger.start_run(matrix="/a/matrix.toml", matrix_digest="d1", argv=["run", "-m", "/a/matrix.toml"])
    second = ledger.start_run(matrix="/b/matrix.toml", matrix_digest="d2", host="elsewhere")
    ledger.finish_run(first, exit_code=1, report={"schema": 1, "cells": []})
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", first)
    assert [run.id for run in ledger.runs()] == [second, first]
    assert [run.report for run in ledger.runs()] == [None, {}]
    finished = ledger.run(first)
    assert finished is not None
    assert (finished.exit_code, finished.report) == (1, {"schema": 1, "cells": []})
    assert (finished.argv, finished.host) == (("run", "-m", "/a/matrix.toml"), os.uname().nodename)
    assert finished.finished is not None and finished.started <= finished.finished
    interrupted = ledger.run(second)
    assert interrupted is not None
    assert (interrupted.finished, interrupted.exit_code, interrupted.report) == (None, None, None)
    assert ledger.run("20200101-000000-0000") is None
    latest, latest_a = ledger.latest_run(), ledger.latest_run("/a/matrix.toml")
    assert latest is not None and latest.id == second
    assert latest_a is not None and latest_a.id == first
    assert ledger.latest_run(tmp_path / "none.toml") is None


def test_run_ids_sort_by_time_and_never_clash(ledger: Ledger) -> None:
    ids = [ledger.start_run() for _ in range(300)]
    assert len(set(ids)) == 300
    assert [name[:15] for name in ids] == sorted(name[:15] for name in ids)


def test_a_cell_judged_again_has_its_later_verdict(ledger: Ledger) -> None:
    ledger.record_cell("run", "vad/int8@stock:cpu/here", "failed", {"status": "failed"})
    ledger.record_cell("run", "cls/none@stock:cpu/here", "pass", {"status": "pass"})
    ledger.record_cell("run", "vad/int8@stock:cpu/here", "pass", {"status": "pass", "reasons": []})
    ledger.record_cell("other run", "vad/int8@stock:cpu/here", "slower", {})
    assert [(cell.cell_id, cell.status, cell.verdict) for cell in ledger.cells("run")] == [
        ("cls/none@stock:cpu/here", "pass", {"status": "pass"}),
        ("vad/int8@stock:cpu/here", "pass", {"status": "pass", "reasons": []}),
    ]


def test_what_is_forgotten_is_not_done(ledger: Ledger) -> None:
    run = ledger.start_run()
    old = (datetime.now(UTC) - timedelta(days=9)).isoformat(timespec="seconds")
    ledger.record(run, attempt("a", kind="time"))
    ledger.record(run, attempt("b", kind="time", started=old))
    ledger.record(run, attempt("c", kind="check"))
    ledger.record(run, attempt("c", "failed", kind="check"))
    ledger.record(run, attempt("d", kind="fetch"))
    assert ledger.forget(kind="time", before=datetime.now(UTC) - timedelta(days=1)) == 1
    assert set(ledger.last_many("abcd")) == set("acd")
    assert ledger.forget(["c", "nothing"]) == 2
    assert ledger.forget(identities=["made by d"]) == 1
    assert set(ledger.last_many("abcd")) == {"a"}
    with ledger.rehearsal():
        assert ledger.forget(kind="time") == 1
        assert ledger.done("a") is None
    assert ledger.done("a") is not None
    assert ledger.forget(kind="time") == 1
    with pytest.raises(TypeError):
        ledger.forget()
    with pytest.raises(TypeError):
        ledger.forget(["a"], kind="time")


WRITER = """
import random, sys
from pathlib import Path
from ortforge.store.ledger import Ledger, StepRecord
ledger, name = Ledger(Path(sys.argv[1])), sys.argv[2]
run = ledger.start_run(matrix=name)
rng, number = random.Random(name), 0
print("ready", flush=True)
while True:
    key = f"{name}-{number}"
    ledger.record(run, StepRecord(key, key, "time", "ok", key, {"key": key, "samples": "x" * rng.randrange(300_000)}))
    ledger.record_cell(run, key, "pass", {"key": key})
    print(key, flush=True)
    number += 1
"""


def test_killed_in_the_middle_of_records_only_the_one_in_flight_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    rng = random.Random(3)
    recorded: list[str] = []
    for name in range(10):
        process = start(WRITER, path, name)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        theirs = [process.stdout.readline().strip() for _ in range(rng.randrange(10))]
        time.sleep(rng.uniform(0.0, 0.01))
        process.kill()
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
        theirs += [line.strip() for line in output.splitlines(keepends=True) if line.endswith("\n")]
        recorded += theirs
        ledger = Ledger(path)
        assert {key: found.result["key"] for key, found in ledger.done_many(recorded).items()} == {
            k: k for k in recorded
        }
        run = ledger.latest_run(str(name))
        assert run is not None and run.finished is None
        kept = [record.key for record in ledger.attempts(run.id)]
        assert kept[: len(theirs)] == theirs
        assert len(kept) <= len(theirs) + 1
        assert ledger._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ledger.close()
    assert len(recorded) >= 20


COMPANION = """
import sys, time
from pathlib import Path
from ortforge.store.ledger import Ledger, StepRecord
path, name, begin = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
while time.time() < begin: pass
ledger = Ledger(path)
run = ledger.start_run(matrix=name)
for number in range(150):
    key = f"{name}-{number}"
    ledger.record(run, StepRecord(key, key, "time", "ok", key, {"x": "y" * 5000}))
    assert ledger.done(key) is not None
"""


def test_processes_that_make_and_use_one_ledger_at_once_all_succeed(tmp_path: Path) -> None:
    for number in range(3):  # the making of the tables is the delicate moment
        path = tmp_path / f"{number}.sqlite3"
        begin = time.time() + 0.4
        processes = [start(COMPANION, path, name, begin) for name in ("a", "b", "c")]
        for process in processes:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 0, output
        with closing(Ledger(path)) as ledger:
            assert len(ledger.done_many(f"{name}-{n}" for name in "abc" for n in range(150))) == 450


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    failures: list[BaseException] = []

    def work(name: int) -> None:
        try:
            run = ledger.start_run(matrix=str(name))
            for number in range(100):
                ledger.record(run, attempt(f"{name}-{number}"))
                assert ledger.done(f"{name}-{number}") is not None
            assert len(ledger.attempts(run)) == 100
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_forked_child_uses_a_connection_of_its_own(ledger: Ledger) -> None:
    run = ledger.start_run()
    child = os.fork()
    if child == 0:
        try:
            ledger.record(run, attempt("child"))
            os._exit(0 if ledger.done("child") else 1)
        finally:
            os._exit(2)
    ledger.record(run, attempt("parent"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(ledger.done_many(["child", "parent"])) == {"child", "parent"}


# Databases that cannot be used.


def test_a_newer_schema_is_refused(ledger: Ledger) -> None:
    damage(ledger.path, "UPDATE meta SET value = '2' WHERE name = 'schema'")
    with pytest.raises(StoreError, match=r"written by a newer ortforge \(schema 2; this one knows 1\)") as caught:
        Ledger(ledger.path)
    assert "Upgrade ortforge" in caught.value.todo


def test_a_file_that_is_no_database_is_said_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"not a database, and longer than a header" * 100)
    with pytest.raises(StoreError, match="is damaged: file is not a database") as caught:
        Ledger(path)
    assert "Objects and environments are kept" in caught.value.todo


def test_the_remedy_for_a_damaged_ledger_works(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"not a database, and longer than a header" * 100)
    with pytest.raises(StoreError) as caught:
        Ledger(path)
    command = caught.value.todo.partition(": ")[2].partition("\n")[0]
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    with closing(Ledger(path)) as anew:
        assert anew.runs() == []
    assert (tmp_path / "damaged-ledger.sqlite3").exists()


def test_damaged_pages_are_said(ledger: Ledger) -> None:
    run = ledger.start_run()
    for number in range(200):
        ledger.record(run, attempt(str(number), result={"x": "y" * 1000}))
    ledger.close()
    with ledger.path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (ledger.path.stat().st_size - 8192))
    with pytest.raises(StoreError, match="is damaged"), closing(Ledger(ledger.path)) as damaged:
        damaged.done_many(map(str, range(200)))


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    damage(path, "CREATE TABLE photos (id INTEGER)")
    with pytest.raises(StoreError, match="not a ledger of ortforge"):
        Ledger(path)


def test_an_empty_file_left_by_a_kill_becomes_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    path.touch()
    with closing(Ledger(path)) as ledger:
        assert ledger.runs() == []


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        Ledger(tmp_path / "gone" / "ledger.sqlite3")


def test_results_are_plain_json_for_other_tools(ledger: Ledger) -> None:
    ledger.record(ledger.start_run(), attempt("k", result={"b": 1, "a": [1.5]}))
    connection = sqlite3.connect(ledger.path)
    (text,) = connection.execute("SELECT result FROM attempts").fetchone()
    connection.close()
    assert json.loads(text) == {"b": 1, "a": [1.5]}
