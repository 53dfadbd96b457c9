"""``ortforge repro`` reproduces a verdict, and says what has changed since."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import ortforge
from onnx import TensorProto, helper, numpy_helper

from ortforge.store import open_store

PLAIN = "m/none@stock:cpu/here"
RUINED = "m/int8@stock:cpu/here"
REFUSED = "m/qop@stock:cpu/here"

MATRIX = """
[models.m]
path = "path:m.onnx"
validation = "path:val"
calibration = "path:val"
tolerance = { cosine = 0.9999999, max_rel_range = 1e-7 }

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]

[limits]
timing_s = 0.0

[recipes.int8]
passes = [{ use = "quantize-dynamic" }]

[recipes.qop]
passes = [{ use = "quantize-static", nodes_to_exclude = ["no_such_node"] }]

[[matrix]]
targets = ["*"]
models = ["*"]
recipes = ["*"]
"""


def write_data(folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(4):
        np.savez(folder / f"{number}.npz", x=rng.standard_normal((3, 16)).astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A project that was run once."""
    here = tmp_path_factory.mktemp("project")
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), here / "m.onnx")
    (here / "matrix.toml").write_text(MATRIX, "utf-8")
    write_data(here / "val", 1)
    done = ortforge(here, "run", "--store", str(store), "--json")
    assert done.cells[PLAIN]["status"] == "pass" and done.cells[RUINED]["status"] == "inaccurate"
    assert done.cells[REFUSED]["status"] == "failed"
    return here


@pytest.mark.parametrize("cell", [PLAIN, RUINED, REFUSED])
def test_a_verdict_is_reproduced_and_the_exit_code_says_so(folder: Path, store: Path, cell: str) -> None:
    again = ortforge(folder, "repro", cell, "--store", str(store))
    assert again.code == 0, again.err
    assert "Reproduced: the status is the one in the report" in again.out
    assert "The reasons are others" not in again.out
    if cell != REFUSED:
        assert "The outputs are bitwise those of the run." in again.out


def test_the_kept_script_prints_how_the_outputs_differ(folder: Path, store: Path) -> None:
    kept = ortforge(folder, "repro", RUINED, "--store", str(store), "--keep", "kept")
    assert kept.code == 0, kept.err
    command = next(line for line in kept.out.splitlines() if line.startswith("kept; by hand: ")).split(": ", 1)[1]
    said = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
    assert f"cell {RUINED} status inaccurate" in said
    assert "sample 0 y largest error " in said and "of the range), cosine 0.9" in said


def test_what_a_failing_pass_was_given_is_kept(folder: Path, store: Path) -> None:
    kept = ortforge(folder, "repro", REFUSED, "--store", str(store), "--keep", "pass")
    assert kept.code == 0, kept.err
    case = json.loads((folder / "pass" / "case.json").read_text("utf-8"))
    assert (case["pass"], case["status"]) == ("quantize-static", "failed")
    assert list((folder / "pass" / "model").glob("*.onnx")) and list((folder / "pass" / "calibration").glob("*.npz"))


def test_changed_data_are_told_and_the_runs_own_are_used(folder: Path, store: Path) -> None:
    write_data(folder / "val", 2)
    try:
        again = ortforge(folder, "repro", PLAIN, "--store", str(store))
    finally:
        write_data(folder / "val", 1)
    assert again.code == 0, again.err
    assert "Since the run, the validation data has changed" in again.out
    assert "Since the run, the model has changed" not in again.out
    assert "The outputs are bitwise those of the run." in again.out


def test_another_verdict_than_the_reports_has_exit_code_1(folder: Path, store: Path) -> None:
    with open_store(store) as opened:
        run = opened.ledger.latest_run((folder / "matrix.toml").resolve())
        while run is not None and run.report is None:
            run = next((opened.ledger.run(one.id) for one in opened.ledger.runs() if one.report is not None), None)
        assert run is not None and run.report is not None
        report = json.loads(json.dumps(run.report))
        for cell in report["cells"]:
            if cell["id"] == RUINED:
                cell.update(status="pass", reasons=["Correct."])
        opened.ledger.amend_report(run.id, report)
    again = ortforge(folder, "repro", RUINED, "--store", str(store), "--json")
    found = json.loads(again.out)
    assert (again.code, found["same"], found["reported"], found["cell"]["status"]) == (1, False, "pass", "inaccurate")


def test_without_a_report_there_is_nothing_to_be_the_same_as(folder: Path, tmp_path: Path) -> None:
    alone = ortforge(folder, "repro", PLAIN, "--store", str(tmp_path / "new"))
    assert alone.code == 1
    assert "No report has this cell" in alone.out
