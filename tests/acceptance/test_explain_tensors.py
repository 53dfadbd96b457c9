"""``ortforge explain`` on real cells: which tensors are worst, what helps, kept under a key, never of another model."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
from command import ortforge
from models import classifier, samples

MATRIX = """
[models.m]
path = "path:m.onnx"
validation = "path:data"
calibration = "path:calibration"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[recipes.static]
passes = [{ use = "quantize-static", per_channel = PER_CHANNEL }]
[[matrix]]
"""
CELL = "m/static@stock:cpu/here"


def test_the_tensors_of_a_cell_are_compared_once(tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx")
    samples(tmp_path / "data")
    samples(tmp_path / "calibration", count=16, seed=5)
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(MATRIX.replace("PER_CHANNEL", "false"), encoding="utf-8")
    store = ("--store", str(tmp_path / "store"))
    assert ortforge(tmp_path, "run", *store).code in (0, 1)

    said = ortforge(tmp_path, "explain", CELL, *store, "--json")
    assert said.code == 0, said.err
    found = said.report["differences"]
    named = {entry["tensor"] for entry in found["tensors"]}
    assert {"y", "m2"} <= named
    assert all(entry["sqnr_db"] < 80 for entry in found["tensors"])
    model = Path(said.report["artefact"]["path"])
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(model).graph.node}
    again = ortforge(tmp_path, "explain", CELL, *store, "--json")
    assert again.report["differences"] == found
    shown = ortforge(tmp_path, "explain", CELL, *store).out
    assert "SQNR" in shown and str(model) in shown

    plain = ortforge(tmp_path, "explain", CELL.replace("static", "none"), *store)
    assert plain.code == 0
    assert "has no recipe" in plain.err

    matrix.write_text(MATRIX.replace("PER_CHANNEL", "true"), encoding="utf-8")
    changed = ortforge(tmp_path, "explain", CELL, *store)
    assert changed.code == 0
    assert "the matrix gives another model now" in changed.err

    matrix.unlink()
    gone = ortforge(tmp_path, "explain", CELL, *store)
    assert gone.code == 0
    assert "is not there" in gone.err


MORE = """
[models.m]
path = "path:m.onnx"
validation = "path:data"
calibration = "path:calibration"
tolerance = { cosine = COSINE, speed = "any" }
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[recipes.static]
passes = [{ use = "quantize-static", weight_type = "QInt8", reduce_range = true }]
[recipes.half]
passes = [{ use = "float16" }]
[recipes.ort]
passes = [{ use = "optimize", format = "ort" }]
[recipes.tuned]
passes = [{ use = "tune-session", settings = ["mem_pattern"], budget_s = 1.0, rounds = 2 }]
[limits]
import_s = IMPORT_S
timing_s = 0
[[matrix]]
"""


def test_a_list_is_proved_by_quantizing_again(tmp_path: Path) -> None:
    classifier(tmp_path / "m.onnx")
    samples(tmp_path / "data")
    samples(tmp_path / "calibration", count=16, seed=5)
    matrix = tmp_path / "matrix.toml"

    def write(cosine: str, import_s: str = "60") -> None:
        text = MORE.replace("COSINE", cosine).replace("IMPORT_S", import_s)
        matrix.write_text(text, encoding="utf-8")

    write("0.99999")  # more than 7 bits of all weights can give
    store = ("--store", str(tmp_path / "store"))
    assert ortforge(tmp_path, "run", *store).code == 0  # the recipe lost, which is an answer

    # What goes wrong in the worker is said, and the rest of the cell is shown all the same.
    write("0.99999", import_s="0.02")
    late = ortforge(tmp_path, "explain", CELL, *store)
    assert late.code == 0 and "tensors were not compared: timeout" in late.err and "Parity over" in late.out
    write("0.99999")

    quick = ortforge(tmp_path, "explain", CELL, *store, "--budget", "0", "--json").report["differences"]
    assert "exclusion" not in quick and quick["unproved"] == "no time was given for it"

    told = ortforge(tmp_path, "explain", CELL, *store, "--json")
    assert "quantizing again with" in told.err
    found = told.report["differences"]["exclusion"]
    assert not found["before"]["holds"] and found["tried"]
    for row in found["tried"]:
        assert row["problem"] == "" and 0 < row["nodes"] <= max(1, found["most_nodes"], found["tried"][0]["nodes"])
    again = ortforge(tmp_path, "explain", CELL, *store, "--json")
    assert again.report["differences"]["exclusion"] == found and "quantizing again" not in again.err
    assert found["verdict"] in ortforge(tmp_path, "explain", CELL, *store).out

    tuned = ortforge(tmp_path, "explain", CELL.replace("static", "tuned"), *store)
    assert tuned.code == 0 and "the recipe changed the session alone" in tuned.err and "Worst tensors" not in tuned.out

    ort = ortforge(tmp_path, "explain", CELL.replace("static", "ort"), *store)
    assert ort.code == 0 and "the model is in ONNX Runtime's own format, which cannot be taken apart" in ort.err
    assert "model.ort" in ort.out

    # Objects that are gone (a collected store, a lost disk) are made again: the models too.
    for folder in (tmp_path / "store" / "objects").iterdir():
        shutil.rmtree(folder)
    anew = ortforge(tmp_path, "explain", CELL, *store, "--budget", "60", "--json")
    assert anew.code == 0, anew.err
    assert anew.report["differences"]["exclusion"]["before"] == found["before"]

    half = ortforge(tmp_path, "explain", CELL.replace("static", "half"), *store)
    assert half.code == 0 and "the recipe does not quantize" in half.out

    wrong = ortforge(tmp_path, "explain", CELL.replace("static", "statics"), *store)
    assert wrong.code == 2 and f"Perhaps you meant {CELL!r}" in wrong.err

    empty = ortforge(tmp_path, "explain", CELL, "--store", str(tmp_path / "other"))
    assert empty.code == 2 and "there is no store" in empty.err
