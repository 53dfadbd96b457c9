"""Runtimes that crash, hang or eat memory get their verdict, and their siblings go on."""

from __future__ import annotations

from pathlib import Path

from command import ortforge
from models import classifier, samples, stub_runtime

from ortforge.portable.statuses import CORRECT

MATRIX = """
[limits]
timing_s = 0.4
rounds = 1
load_s = 20
run_s = 3
memory = "2GB"
[models.small]
path = "path:small.onnx"
validation = "path:data"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.segfault]
from = "wheel"
wheel = "segfault/onnxruntime-1.99.0-py3-none-any.whl"
[targets.hang]
from = "wheel"
wheel = "hang/onnxruntime-1.99.0-py3-none-any.whl"
[targets.hungry]
from = "wheel"
wheel = "hungry/onnxruntime-1.99.0-py3-none-any.whl"
[targets.abort]
from = "wheel"
wheel = "abort/onnxruntime-1.99.0-py3-none-any.whl"
[targets.garbage]
from = "wheel"
wheel = "garbage/onnxruntime-1.99.0-py3-none-any.whl"
[recipes.int8]
passes = [{ use = "quantize-dynamic" }]
[[matrix]]
targets = ["stock"]
[[matrix]]
targets = ["segfault", "hang", "hungry", "abort", "garbage"]
recipes = ["none"]
"""


def test_each_gets_its_verdict(tmp_path: Path, store: Path) -> None:
    classifier(tmp_path / "small.onnx")
    samples(tmp_path / "data")
    for kind in ("segfault", "hang", "hungry", "abort", "garbage"):
        stub_runtime(tmp_path / kind, kind)
    (tmp_path / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    done = ortforge(tmp_path, "run", "--store", str(store), "--json")
    assert done.code == 1, done.err
    cells = {cell["target"]: cell for cell in done.report["cells"] if cell["recipe"] == "none"}
    assert cells["stock"]["status"] == "pass"
    assert cells["segfault"]["status"] == "crashed"
    assert "SIGSEGV" in " ".join(cells["segfault"]["reasons"])
    assert cells["abort"]["status"] == "crashed"
    assert "SIGABRT" in " ".join(cells["abort"]["reasons"])
    assert cells["hang"]["status"] == "timeout"
    assert cells["hungry"]["status"] == "out-of-memory"
    assert cells["garbage"]["status"] == "failed"
    assert "no such kernel" in " ".join(cells["garbage"]["reasons"])
    assert "garbage" in cells["garbage"]["log"]
    int8 = next(cell for cell in done.report["cells"] if cell["recipe"] == "int8")
    assert int8["status"] in CORRECT | {"inaccurate"}  # CPUs without VNNI saturate
    assert "Traceback" not in done.err

    # Failures are tried again, results are not: and with --no-retry nothing at all is done.
    again = ortforge(tmp_path, "run", "--store", str(store), "--json", "--no-retry")
    assert again.report["run"]["steps"]["run"] == 0
    assert {cell["id"]: cell["status"] for cell in again.report["cells"]} == {
        cell["id"]: cell["status"] for cell in done.report["cells"]
    }
