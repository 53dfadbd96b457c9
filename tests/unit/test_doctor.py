"""``ortforge doctor``: what each check says of a machine, and what the verb makes of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ortforge.plugins.checks import contention
from typer.testing import CliRunner

from ortforge.api import CheckContext, Device, Gpu
from ortforge.cli.main import app
from ortforge.errors import StoreError
from ortforge.plugin_manager import Plugins
from ortforge.runtime.uv import find_uv, surroundings
from ortforge.store import open_store

Install = Callable[..., Path]


@pytest.fixture
def context(tmp_path: Path, linux_cpu: Device) -> CheckContext:
    return CheckContext(tmp_path / "store", linux_cpu, find_uv(), surroundings(os.environ))


@pytest.fixture(scope="module")
def checks() -> Any:
    return Plugins(environ={}, third_party=False).checks


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return done.exit_code, {entry["name"]: entry for entry in json.loads(done.stdout)["checks"]}


def test_there_is_a_check_for_each_need(checks: Any) -> None:
    assert set(checks) == {"contention", "disk", "docker", "gpu", "index", "interpreters", "store", "uv"}


def test_uv_says_its_version(checks: Any, context: CheckContext) -> None:
    outcome = checks["uv"].run(context)
    assert outcome.status == "ok"
    assert str(context.uv) in outcome.message


def test_uv_that_is_missing_or_is_no_program(checks: Any, context: CheckContext, tmp_path: Path) -> None:
    (tmp_path / "uv").write_text("no program")
    for uv in (None, tmp_path / "uv"):
        outcome = checks["uv"].run(replace(context, uv=uv))
        assert outcome.status == "problem"
        assert "pip install" in outcome.todo
    assert checks["index"].run(replace(context, uv=None)).status == "warning"


def test_an_old_uv_is_a_warning(checks: Any, context: CheckContext, tmp_path: Path) -> None:
    old = tmp_path / "uv"
    old.write_text("#!/bin/sh\necho 'uv 0.4.30 (61ed2a236 2024-11-04)'\n")
    old.chmod(0o755)
    outcome = checks["uv"].run(replace(context, uv=old))
    assert (outcome.status, "0.4.30" in outcome.message) == ("warning", True)


def test_an_index_that_does_not_answer(checks: Any, context: CheckContext) -> None:
    secret = {"UV_DEFAULT_INDEX": "http://user:secret@127.0.0.1:9/simple", "NO_PROXY": "127.0.0.1"}
    outcome = checks["index"].run(replace(context, uv_environ={**context.uv_environ, **secret}))
    assert outcome.status == "problem"
    assert "secret" not in outcome.message
    assert "HTTPS_PROXY" in outcome.todo


def test_an_index_that_is_not_to_be_asked(checks: Any, context: CheckContext) -> None:
    for value in ("1", "true"):
        outcome = checks["index"].run(replace(context, uv_environ={**context.uv_environ, "UV_OFFLINE": value}))
        assert outcome.status == "ok" and outcome.message.startswith("Offline: UV_OFFLINE is set")
    secret = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "NO_PROXY": "127.0.0.1", "UV_OFFLINE": "0"}
    assert checks["index"].run(replace(context, uv_environ={**context.uv_environ, **secret})).status == "problem"


def test_disk_speaks_of_the_store(checks: Any, context: CheckContext) -> None:
    outcome = checks["disk"].run(context)
    free = shutil.disk_usage(context.store.parent).free
    assert outcome.status == ("ok" if free >= 5e9 else "warning" if free >= 1e9 else "problem")
    assert str(context.store) in outcome.message


@pytest.mark.parametrize(("waited", "status"), [("0.00", "ok"), ("9.99", "ok"), ("97.96", "warning")])
def test_contention(
    checks: Any, context: CheckContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: str, status: str
) -> None:
    account = tmp_path / "cpu"
    account.write_text(f"some avg10={waited} avg60=1.00 avg300=0.10 total=5\nfull avg10=0.00 avg60=0.00\n")
    monkeypatch.setattr(contention, "PRESSURE", account)
    assert checks["contention"].run(context).status == status


def test_a_kernel_that_does_not_tell(
    checks: Any, context: CheckContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "PRESSURE", tmp_path / "nowhere")
    assert "does not tell" in checks["contention"].run(context).message


def test_interpreters_hold_the_one_that_runs_this(checks: Any, context: CheckContext) -> None:
    outcome = checks["interpreters"].run(context)
    assert outcome.status == "ok"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        assert f"{sys.version_info[0]}.{sys.version_info[1]}." in outcome.message


def test_a_gpu_is_named_with_its_driver(checks: Any, context: CheckContext) -> None:
    assert checks["gpu"].run(context).status in {"ok", "warning"}
    card = Gpu("nvidia", "NVIDIA H200", "570.1", 150 << 30)
    outcome = checks["gpu"].run(replace(context, device=replace(context.device, gpus=(card,))))
    assert outcome.message == "NVIDIA H200 (driver 570.1)"


def test_a_store_before_during_and_after(checks: Any, context: CheckContext) -> None:
    assert "not there yet" in checks["store"].run(context).message
    assert not context.store.exists()
    store = open_store(context.store)
    assert "is empty" in checks["store"].run(context).message
    store.ledger.start_run(matrix="matrix.toml")
    assert checks["store"].run(context).message.endswith("is whole, with 1 run.")
    store.close()


def test_a_file_where_the_store_should_be(checks: Any, context: CheckContext) -> None:
    context.store.write_text("a file")
    assert checks["store"].run(context).status == "problem"


def damage(folder: Path) -> None:
    """Make a store whose ledger lost its beginning, as a torn copy does."""
    store = open_store(folder)
    store.ledger.start_run(matrix="matrix.toml")
    store.close()
    ledger = folder / "ledger.sqlite3"
    ledger.write_bytes(b"\0" * 4096 + ledger.read_bytes()[4096:])


def test_a_damaged_ledger_is_moved_aside_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    damage(folder)
    torn = (folder / "ledger.sqlite3").read_bytes()
    code, found = doctor("--store", str(folder))
    assert (code, found["store"]["status"], found["store"]["fixed"]) == (4, "problem", False)
    assert "--fix" in found["store"]["todo"]
    _, found = doctor("--store", str(folder), "--fix")
    assert (found["store"]["status"], found["store"]["fixed"]) == ("ok", True)
    assert (folder / "damaged-1-ledger.sqlite3").read_bytes() == torn
    with open_store(folder) as mended:
        assert mended.ledger.runs() == []


def test_nothing_is_mended_under_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    damage(folder)
    with open_store(folder).lock("run", shared=True):
        done = CliRunner().invoke(app, ["doctor", "--fix", "--store", str(folder)])
    assert isinstance(done.exception, StoreError)
    assert "in use" in done.exception.what
    assert (folder / "ledger.sqlite3").exists()


def test_a_busy_ledger_is_a_healthy_one(checks: Any, context: CheckContext) -> None:
    store = open_store(context.store)
    store.ledger.start_run(matrix="matrix.toml")
    other = sqlite3.connect(context.store / "ledger.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert checks["store"].run(context).status == "ok"
    other.close()
    store.close()


def test_what_other_plugins_check_and_break(install_plugin: Install, tmp_path: Path) -> None:
    install_plugin(
        "ortforge-office",
        """
        from ortforge.api import Check, CheckOutcome

        def ortforge_checks():
            yield Check("licence", "the licence server answers", lambda context: CheckOutcome("warning", "slow"))
            yield Check("broken", "raises", lambda context: 1 / 0)
            yield Check("odd", "answers with something else", lambda context: "fine")
            yield Check("stubborn", "cannot be mended", lambda context: CheckOutcome("problem", "no"), fix=refuse)

        def refuse(context):
            raise PermissionError("not allowed")
        """,
    )
    code, found = doctor("--store", str(tmp_path / "store"), "--fix")
    assert code == 4
    assert found["licence"]["status"] == "warning"
    assert "ZeroDivisionError" in found["broken"]["message"]
    assert found["odd"]["status"] == "problem"
    assert "not allowed" in found["stubborn"]["message"]


def test_a_broken_plugin_is_a_warning(install_plugin: Install, tmp_path: Path) -> None:
    install_plugin("ortforge-torn", "import does_not_exist_anywhere")
    _, found = doctor("--store", str(tmp_path / "store"))
    assert found["plugins"]["status"] == "warning"
    assert "does_not_exist_anywhere" in found["plugins"]["message"]


def test_on_a_terminal_of_ascii_it_prints_a_line_each(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ortforge.cli.main", "doctor", "--store", str(tmp_path / "größer")],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines() if line[:1] != b" "} >= {b"uv", b"store", b"plugins"}
