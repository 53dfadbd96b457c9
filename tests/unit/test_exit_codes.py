"""What kept a run from being done decides its exit code: a build, the environment, a full disk."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ortforge.api import TaskOutcome
from ortforge.engine.exit_codes import obstacle
from ortforge.engine.lacking import FULL_DISK, LACKS, is_full_disk, lacks_something, marked
from ortforge.engine.walk import Settled
from ortforge.errors import (
    BuildError,
    ConfigurationError,
    EnvironmentLacksError,
    ExitCode,
    FetchError,
    OrtforgeError,
    ProvisionError,
    StoreError,
)
from ortforge.plan.graph import Cell, Step


def settle(*rows: tuple[str, str, tuple[str, ...], dict[str, Any]]) -> dict[str, Settled]:
    """Settle steps: id, status, inputs and result; the kind stands before the colon."""
    found = {}
    for name, status, inputs, result in rows:
        found[name] = Settled(Step(name, name.partition(":")[0], {}, inputs), status, result=result)
    return found


def cell(name: str, *steps: str) -> Cell:
    return Cell(name, "m", "none", "t", "cpu", "here", steps={step.partition(":")[0]: step for step in steps})


def test_a_failed_build_is_3_and_what_the_environment_lacks_is_4() -> None:
    settled = settle(
        ("compile:t", "failed", (), {"exit_code": 3}),
        ("package:t", "blocked", ("compile:t",), {}),
        ("provision:t", "blocked", ("package:t",), {}),
        ("provision:u", "failed", (), {"exit_code": 4, LACKS: True}),
        ("fetch:gone", "failed", (), {"exit_code": 4}),
    )
    built, installed, missing = cell("a", "provision:t"), cell("b", "provision:u"), cell("c", "fetch:gone")
    assert obstacle([built], settled, {"a"}) == ExitCode.BUILD
    assert obstacle([built, installed], settled, {"a", "b"}) == ExitCode.ENVIRONMENT
    assert obstacle([built, installed, missing], settled, {"c"}) is None  # a file that is not there is a verdict
    assert obstacle([built, installed], settled, ()) is None  # all as expected


def test_a_full_disk_counts_whatever_is_expected() -> None:
    settled = settle(("time:x", "failed", (), {FULL_DISK: True, LACKS: True, "exit_code": 4}))
    assert obstacle([], settled, ()) == ExitCode.ENVIRONMENT


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "full", "lacks"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True, True),
        (OSError(errno.EACCES, "Permission denied"), False, False),
        (caused(FetchError("m.onnx could not be copied."), OSError(errno.ENOSPC, "full")), True, True),
        (ProvisionError("The disk is full: the environment could not be made."), True, True),
        (ProvisionError("There is no network, and the package cache does not hold it."), False, True),
        (ProvisionError("There is no onnxruntime 1.32.99."), False, False),
        (FetchError("There is no file goood.onnx."), False, False),
        (FetchError("https://x could not be reached: timed out."), False, True),
        (EnvironmentLacksError("No container engine answers."), False, True),
        (StoreError("The store cannot be written."), False, True),
        (BuildError("The compiler failed."), False, False),
        (ConfigurationError("There is no such option."), False, False),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), True, True),
    ],
)
def test_what_is_lacking_is_told_from_the_error(error: OrtforgeError | OSError, full: bool, lacks: bool) -> None:
    assert (is_full_disk(error), lacks_something(error)) == (full, lacks)


def test_a_worker_that_met_a_full_disk_marks_its_step(tmp_path: Path) -> None:
    told = marked(TaskOutcome("failed", reason="pass x: OSError: [Errno 28] No space left on device"), None, tmp_path)
    assert told.result == {"exit_code": 4, LACKS: True, FULL_DISK: True}
    log = marked(TaskOutcome("crashed", reason="It died of SIGABRT.", log="No space left on device\n"), None, tmp_path)
    assert log.result[FULL_DISK]
    assert log.reason.startswith("The disk is full: ")
    other = TaskOutcome("failed", reason="The model is wrong.", result={"a": 1})
    assert marked(other, ValueError("x"), tmp_path) == other
    assert marked(TaskOutcome("ok", log="No space left on device"), None, tmp_path).result == {}


_REFUSING = """
import errno, sys
from ortforge.cli import main
def app():
    raise {error}
main.app = app
main.main()
"""


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        ("OSError(errno.ENOSPC, 'No space left on device', '/x/y')", 4, "The disk is full: /x/y could not be written."),
        ("OSError(errno.EACCES, 'Permission denied')", 70, "a defect: PermissionError"),
        ("KeyError('x')", 70, "a defect: KeyError"),
        ("main.PluginError('no')", 2, "ortforge: no"),
    ],
)
def test_what_reaches_the_command_line_has_its_documented_code(error: str, code: int, told: str) -> None:
    program = _REFUSING.format(error=error)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
