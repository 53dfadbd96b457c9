"""``ortforge explain`` on a quantized cell: which tensors are worst, kept under a key, and never of another model."""

from __future__ import annotations

from pathlib import Path

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
    again = ortforge(tmp_path, "explain", CELL, *store, "--json")
    assert again.report["differences"] == found
    assert "SQNR" in ortforge(tmp_path, "explain", CELL, *store).out

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
