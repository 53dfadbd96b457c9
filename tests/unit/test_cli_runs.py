"""Runs in a store that several projects share: whose run is shown, and who waits for whom."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ortforge.cli.run import turn
from ortforge.store import Store, open_store

from .report_sample import sample_report
from .test_cli_errors import ortforge


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def project(tmp_path: Path, name: str) -> Path:
    """Make a folder with a matrix file and return the file."""
    (tmp_path / name).mkdir()
    matrix = tmp_path / name / "matrix.toml"
    matrix.write_text("[[matrix]]\n", encoding="utf-8")
    return matrix


def finished(store: Store, matrix: Path) -> str:
    """Keep a run of a matrix file as if it had just ended; return its id."""
    run = store.ledger.start_run(matrix=str(matrix))
    report: dict[str, Any] = sample_report()
    report["run"] |= {"id": run, "matrix": str(matrix)}
    store.ledger.finish_run(run, exit_code=1, report=report)
    return run


def test_latest_is_this_projects_run_and_not_its_neighbours(tmp_path: Path, store: Store) -> None:
    ours, theirs = project(tmp_path, "ours"), project(tmp_path, "theirs")
    mine = finished(store, ours)
    store.ledger.start_run(matrix=str(ours))  # it was interrupted, and has no report
    other = finished(store, theirs)
    where = ("--store", str(store.root))
    code, out, err = ortforge(ours.parent, "report", *where)
    assert (code, err) == (0, "")
    assert f"Run {mine} of {ours}, exit code" in out
    assert json.loads(ortforge(ours.parent, "report", "--json", *where)[1])["run"]["id"] == mine
    assert other in ortforge(ours.parent, "report", *where, "--matrix", "../theirs/matrix.toml")[1]
    assert other in ortforge(theirs.parent, "report", *where)[1]
    assert other in ortforge(ours.parent, "report", other, *where)[1]
    cell = sample_report()["cells"][0]["id"]
    assert f"{mine} of {ours}" in ortforge(ours.parent, "explain", cell, *where)[1]
    compared = ortforge(ours.parent, "compare", other, "latest", *where)[1].splitlines()
    assert [(other in line, mine in line) for line in compared[:2]] == [(True, False), (False, True)]
    assert [line.endswith(str(matrix)) for line, matrix in zip(compared, (theirs, ours), strict=False)] == [True, True]


def test_without_a_run_of_its_own_a_project_is_told_whose_run_it_sees(tmp_path: Path, store: Store) -> None:
    ours, theirs = project(tmp_path, "ours"), project(tmp_path, "theirs")
    other = finished(store, theirs)
    where = ("--store", str(store.root))
    code, out, err = ortforge(ours.parent, "report", *where)
    assert (code, other in out) == (0, True)
    assert err == f"note: no run of ./matrix.toml is in this store: this is run {other} of {theirs}.\n"
    code, out, err = ortforge(ours.parent, "report", *where, "--matrix", "matrix.toml")
    assert (code, out) == (2, "")
    assert "no finished run of matrix.toml is in this store" in err
    assert f"Perhaps you meant --matrix {theirs}." in err
    # Where no matrix file lies there is nothing to mistake it for.
    assert ortforge(tmp_path, "report", *where)[2] == ""


_COUNTING = """
import sqlite3, sys
opened = []
sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "sqlite3.connect/handle" else None)
from ortforge.cli.main import main
try:
    main()
except SystemExit:
    pass
def is_open(connection):
    try:
        connection.total_changes
    except sqlite3.ProgrammingError:
        return False
    return True
print(len(opened), sum(map(is_open, opened)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "verb", ["report", "report --list", "compare latest latest", "explain no/such@cell:x/y", "cache show", "plan"]
)
def test_a_verb_closes_the_ledger_when_it_ends(tmp_path: Path, store: Store, verb: str) -> None:
    finished(store, project(tmp_path, "ours"))
    (tmp_path / "ours" / "m.onnx").write_bytes(b"a model")
    target = '[targets.t]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\n'
    text = f'[models.m]\npath = "path:m.onnx"\n{target}[[matrix]]\n'
    (tmp_path / "ours" / "matrix.toml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _COUNTING, *verb.split(), "--store", str(store.root)],
        cwd=tmp_path / "ours",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "1 0", done.stderr


def test_a_fresh_run_has_the_store_alone(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    began, done = threading.Event(), threading.Event()

    def fresh() -> None:
        began.set()
        with turn(store, fresh=True):
            done.set()

    with turn(store, fresh=False), turn(store, fresh=False):  # runs go on beside each other
        thread = threading.Thread(target=fresh)
        thread.start()
        assert began.wait(10)
        assert not done.wait(0.2)
    thread.join(10)
    assert done.is_set()
    assert "waiting for the store, which process" in capsys.readouterr().err
