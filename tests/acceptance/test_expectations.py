"""Exit codes of real runs: with and without expectations, accepted verdicts, a full disk, no network, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from command import ORTFORGE, Result, ortforge
from models import classifier, samples, stub_runtime

HEAD = """\
[limits]
timing_s = 0
retries = 0
[models.small]
path = "path:small.onnx"
validation = "path:data"
tolerance = { cosine = 0.9999999, max_rel_range = 0.0000001 }
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
"""
CRASHING = """\
[targets.segfault]
from = "wheel"
wheel = "segfault/onnxruntime-1.99.0-py3-none-any.whl"
"""
INT8 = '[recipes.int8]\npasses = ["quantize-dynamic"]\n'
ONLY_PLAIN = '[[matrix]]\nrecipes = ["none"]\n'
CRASHED = "small/none@segfault:cpu/here"
LOST = "small/int8@stock:cpu/here"
PLAIN = "small/none@stock:cpu/here"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    classifier(tmp_path / "small.onnx")
    samples(tmp_path / "data")
    stub_runtime(tmp_path / "segfault", "segfault")
    return tmp_path


def run(folder: Path, store: Path, text: str, *more: str, **environment: str) -> Result:
    (folder / "matrix.toml").write_text(HEAD + text, encoding="utf-8")
    done = ortforge(folder, "run", "--store", str(store), *more, **environment)
    assert "Traceback" not in done.err
    return done


def expect(cells: str, *statuses: str) -> str:
    return f'[[expect]]\ncells = "{cells}"\nstatus = {json.dumps(statuses)}\nreason = "a known bug"\n'


def test_a_recipe_that_lost_is_no_failure_and_a_crash_is_one(folder: Path, store: Path) -> None:
    lost = run(folder, store, INT8)
    assert lost.code == 0, lost.out
    assert "inaccurate" in lost.out
    assert "What ships" in lost.out
    assert "the unoptimized model on stock:cpu" in lost.out
    strict = run(folder, store, INT8, "--strict")
    assert strict.code == 1
    assert f"{LOST}\n    --strict requires pass, and it is inaccurate" in strict.out
    crashed = run(folder, store, CRASHING + ONLY_PLAIN)
    assert crashed.code == 1
    assert f"Not as expected (1)\n  {CRASHED}\n    It crashed: " in crashed.out


def test_an_expected_crash_is_none_and_one_that_is_not_expected_to_pass_is_better(folder: Path, store: Path) -> None:
    expected = run(folder, store, CRASHING + ONLY_PLAIN + expect("*@segfault*", "crashed"), "--json")
    assert expected.code == 0, expected.out
    assert expected.cells[CRASHED]["expectation"]["reason"] == "a known bug"
    better = run(folder, store, ONLY_PLAIN + expect(PLAIN, "inaccurate"))
    assert better.code == 0
    assert f"Better than expected (1)\n  {PLAIN}: pass (matrix.toml expects inaccurate)" in better.out
    worse = run(folder, store, CRASHING + ONLY_PLAIN + expect("*@segfault*", "inaccurate", "slower"))
    assert worse.code == 1
    assert "matrix.toml expects inaccurate or slower, and it is crashed" in worse.out


def test_accepted_verdicts_are_what_later_runs_are_compared_with(folder: Path, store: Path) -> None:
    text = CRASHING + INT8 + '[[matrix]]\ntargets = ["stock"]\n[[matrix]]\nrecipes = ["none"]\n'
    accepted = run(folder, store, text, "--accept")
    assert accepted.code == 0, accepted.out
    path = folder / "matrix.expect.toml"
    assert "Accepted 3 verdicts in matrix.expect.toml (3 added)" in accepted.err
    lines = [line for line in path.read_text().splitlines() if " = " in line]
    assert lines == [f'"{LOST}" = "inaccurate"', f'"{CRASHED}" = "crashed"', f'"{PLAIN}" = "pass"']
    again = run(folder, store, text)
    assert again.code == 0, again.out
    assert "exit code 0: as expected" in again.out
    path.write_text(path.read_text().replace('"inaccurate"', '"pass"'))
    worse = run(folder, store, text)
    assert worse.code == 1
    assert f"{LOST}\n    matrix.expect.toml expects pass, and it is inaccurate" in worse.out
    # A part of the cells is compared, and accepted, without the others.
    assert run(folder, store, text, "--cell", PLAIN).code == 0
    some = run(folder, store, text, "--cell", LOST, "--accept")
    assert some.code == 0
    assert f"{LOST}: pass → inaccurate" in some.err
    assert [line for line in path.read_text().splitlines() if " = " in line] == lines
    # A cell that is new has no expectation; a cell that is gone is an error before anything runs.
    more = run(folder, store, text.replace("[recipes.int8]", '[recipes.fp16]\npasses = ["float16"]\n[recipes.int8]'))
    assert more.code == 0
    assert "Without an expectation (1): small/fp16@stock:cpu/here." in more.out
    gone = run(folder, store, text.replace("[recipes.int8]", "[recipes.int9]"))
    assert (gone.code, gone.out) == (2, "")
    assert f'cells."{LOST}": matches no cell. Did you mean "small/int9@stock:cpu/here"?' in gone.err


def test_an_expectation_for_a_cell_that_does_not_exist_is_an_error_before_anything_runs(folder: Path) -> None:
    done = run(folder, folder / "no-store", expect("small/none@stok:cpu/here", "pass"))
    assert (done.code, done.out) == (2, "")
    assert f'matches no cell. Did you mean "{PLAIN}"?' in done.err
    assert f"matrix.toml:{len(HEAD.splitlines()) + 2}: " in done.err
    assert not (folder / "no-store").exists()
    none = run(folder, folder / "no-store", "", "--cell", "smal/none@stock:cpu/here")
    assert (none.code, f"Did you mean '{PLAIN}'?" in none.err) == (2, True)


def test_without_a_network_nothing_is_accepted(folder: Path) -> None:
    dead = "http://127.0.0.1:9/simple"
    surroundings = {"UV_DEFAULT_INDEX": dead, "UV_INDEX_URL": dead, "UV_HTTP_TIMEOUT": "2"}
    cache = {"UV_CACHE_DIR": str(folder / "empty-cache")}
    done = run(folder, folder / "own-store", ONLY_PLAIN, "--accept", **surroundings, **cache)
    assert done.code == 4, done.out
    assert "No verdict was accepted" in done.err
    assert not (folder / "matrix.expect.toml").exists()
    assert "exit code 4: the environment lacks something" in done.out
    # What is expected to be blocked does not need the network.
    expected = run(folder, folder / "own-store", ONLY_PLAIN + expect("*", "blocked", "failed"), **surroundings, **cache)
    assert expected.code == 0, expected.out


@pytest.mark.parametrize("size", ["100k", "600k", "1m"])
def test_a_full_disk_is_4(folder: Path, size: str) -> None:
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    (folder / "disk").mkdir()
    prepare = f"mount -t tmpfs -o size={size} tmpfs '{folder}/disk'"
    if subprocess.run([*mount, prepare], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk (unshare --mount is refused)")
    (folder / "matrix.toml").write_text(HEAD + INT8, encoding="utf-8")
    command = f"{prepare} && exec '{ORTFORGE}' run --store '{folder}/disk/store' -o '{folder}/report'"
    done = subprocess.run([*mount, command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "disk is full" in (done.stdout + done.stderr).lower()
    assert "Traceback" not in done.stderr


def test_the_exit_code_survives_a_reader_that_goes_away_and_a_full_output_is_4(folder: Path, store: Path) -> None:
    (folder / "matrix.toml").write_text(HEAD + INT8, encoding="utf-8")
    command = [ORTFORGE, "run", "--strict", "--store", str(store), "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (closed.returncode, "defect" in closed.stderr) == (1, False)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4
    assert "The disk is full: the output could not be written." in done.stderr


def test_an_interrupted_run_is_130(folder: Path) -> None:
    (folder / "matrix.toml").write_text(HEAD + INT8, encoding="utf-8")
    process = subprocess.Popen(
        [ORTFORGE, "run", "--store", str(folder / "own-store")],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # "2 cells, …": it runs
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err


def test_compare_fails_when_a_cell_vanished_or_got_worse(folder: Path, store: Path) -> None:
    both = run(folder, store, INT8, "--json").report
    one = run(folder, store, INT8 + ONLY_PLAIN, "--json").report
    for name, report in (("both", both), ("one", one)):
        (folder / f"{name}.json").write_text(json.dumps(report))
    worse = json.loads(json.dumps(both))
    next(cell for cell in worse["cells"] if cell["id"] == PLAIN)["status"] = "unproven"
    (folder / "worse.json").write_text(json.dumps(worse))
    codes = {}
    for name in ("both", "one", "worse"):
        codes[name] = ortforge(folder, "compare", "both.json", f"{name}.json", "--store", str(store)).code
    assert codes == {"both": 0, "one": 1, "worse": 1}
    assert ortforge(folder, "compare", "one.json", "both.json", "--store", str(store)).code == 0
