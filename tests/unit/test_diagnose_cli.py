"""``ortforge diagnose`` as scripts and people call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KILLED = "c++: fatal error: Killed signal terminated program cc1plus\n"


def diagnose(*arguments: str | Path, text: bytes = b"") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "ortforge.cli.main", "diagnose", *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_known_cause_in_a_file(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"[1/2] Building\n{KILLED}", encoding="utf-8")
    code, out, _ = diagnose(log)
    assert code == 0
    assert out.startswith("compiling: a compiler was killed for want of memory [out-of-memory]\n  line 2: c++: fatal")
    assert "jobs = 2" in out
    assert "https://github.com/microsoft/onnxruntime/issues/18579" in out


def test_from_standard_input_for_scripts() -> None:
    code, out, _ = diagnose("-", "--json", text=KILLED.encode())
    told = json.loads(out)
    assert (code, told["known"]) == (0, True)
    (cause,) = told["causes"]
    assert (cause["id"], cause["phase"], cause["line_number"]) == ("out-of-memory", "compiling", 1)
    assert cause["confidence"] == "certain"


def test_an_unknown_failure_is_said_to_be_unknown() -> None:
    log = b"all is well\nfrobnicate: error: the flux is inverted\n"
    code, out, _ = diagnose("-", text=log)
    assert code == 1
    assert "No known cause" in out
    assert "line 2: frobnicate: error: the flux is inverted" in out
    code, out, _ = diagnose("-", "--json", text=log)
    told = json.loads(out)
    assert (code, told["known"], told["causes"]) == (1, False, [])
    assert told["first_errors"] == [{"line_number": 2, "line": "frobnicate: error: the flux is inverted"}]


def test_harmless_lines_are_named_as_such_and_explain_nothing() -> None:
    code, out, _ = diagnose("-", text=b"Schema error: Trying to register schema with name A, already registered\n")
    assert code == 1
    assert "Not the cause: line 1: operators are registered twice." in out


def test_an_unknown_flag_is_explained_for_the_version() -> None:
    log = b"build.py: error: unrecognized arguments: --use_openmp --frob=1\n"
    code, out, _ = diagnose("-", "--ort", "1.21", text=log)
    assert code == 0
    assert "--use_openmp does not exist in 1.21: it existed in" in out
    assert "--ort 1.21" in out
    code, _, err = diagnose("-", "--ort", "0.0", text=log)
    assert (code, "0.0" in err) == (2, True)


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "build.log").write_text(KILLED, encoding="utf-8")
    code, _, err = diagnose(tmp_path / "biuld.log")
    assert code == 2
    assert f"Perhaps you meant {tmp_path / 'build.log'}." in err
    code, _, err = diagnose(tmp_path)
    assert (code, "cannot be read" in err) == (2, True)


def test_all_known_causes_are_listed() -> None:
    code, out, _ = diagnose("--list")
    assert code == 0
    assert "| `out-of-memory` | a compiler was killed for want of memory |" in out
    code, out, _ = diagnose("--list", "--json")
    assert "out-of-memory" in {cause["id"] for cause in json.loads(out)}
    code, _, err = diagnose()
    assert (code, "- for standard input" in err) == (2, True)


def test_an_empty_and_a_binary_log() -> None:
    assert diagnose("-")[0] == 1
    assert diagnose("-", text=bytes(range(256)) * 400)[0] == 1


def test_an_unknown_error_before_the_known_one_is_shown_too() -> None:
    code, out, _ = diagnose("-", text=b"frobnicate: error: the flux is inverted\n" + KILLED.encode())
    assert code == 0
    assert out.startswith("compiling: a compiler was killed")
    assert "Before it, and of no known cause, these lines look like errors:\n  line 1: frobnicate" in out
    code, out, _ = diagnose("-", text=KILLED.encode() + b"frobnicate: error: the flux is inverted\n")
    assert "frobnicate" not in out
