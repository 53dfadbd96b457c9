"""Bad input gets a message, an exit code and no traceback, and loses no finished result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Result, ortforge
from models import classifier, samples
from onnx import TensorProto, helper

HEAD = """
[limits]
timing_s = 0
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
"""
MODEL = '[models.good]\npath = "path:good.onnx"\nvalidation = "path:data"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    classifier(tmp_path / "good.onnx")
    samples(tmp_path / "data")
    return tmp_path


def run(folder: Path, store: Path, text: str, *more: str, **environment: str) -> Result:
    (folder / "matrix.toml").write_text(HEAD + MODEL + text, encoding="utf-8")
    done = ortforge(folder, "run", "--store", str(store), "--json", *more, **environment)
    assert "Traceback" not in done.err
    return done


def verdict(done: Result, model: str) -> tuple[str, str]:
    """Return a model's status and reasons; the good model beside it must not have suffered."""
    cells = {cell["model"]: cell for cell in done.report["cells"]}
    assert cells["good"]["status"] == "pass", cells["good"]["reasons"]
    return cells[model]["status"], " ".join(cells[model]["reasons"])


def test_missing_matrix(folder: Path) -> None:
    done = ortforge(folder, "run")
    assert done.code == 2
    assert "matrix.toml" in done.err
    assert "ortforge init" in done.err


def test_all_configuration_errors_at_once(folder: Path, store: Path) -> None:
    done = run(
        folder,
        store,
        '[modles.x]\npath = "path:x.onnx"\n[recipes.q]\npasses = [{ use = "quantise-dynamic" }]\n'
        '[targets.t]\nfrom = "pakage"\n',
    )
    assert done.code == 2
    for expected in ("modles", "models", "quantise-dynamic", "quantize-dynamic", "pakage", "package"):
        assert expected in done.err
    lines = (folder / "matrix.toml").read_text("utf-8").splitlines()
    assert f":{lines.index('[modles.x]') + 1}" in done.err


def test_missing_model_file(folder: Path, store: Path) -> None:
    done = run(folder, store, '[models.gone]\npath = "path:goood.onnx"\nvalidation = "path:data"\n[[matrix]]\n')
    assert done.code == 1
    status, reason = verdict(done, "gone")
    assert status == "blocked"
    assert "good.onnx was meant" in reason


@pytest.mark.parametrize("keep", [0, 10, 700])
def test_truncated_model(folder: Path, store: Path, keep: int) -> None:
    (folder / "bad.onnx").write_bytes((folder / "good.onnx").read_bytes()[:keep])
    done = run(folder, store, '[models.bad]\npath = "path:bad.onnx"\nvalidation = "path:data"\n[[matrix]]\n')
    status, reason = verdict(done, "bad")
    assert done.code == 1
    assert status == "damaged"
    assert reason.startswith("The model file is damaged: ")


def test_unknown_operator_and_opset(folder: Path, store: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 32]) for name in ("x", "y")]
    for name, operator, opset in (("op", "Frobnicate", 13), ("opset", "Relu", 99)):
        graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
    models = "".join(
        f'[models.{name}]\npath = "path:{name}.onnx"\nvalidation = "path:data"\n' for name in ("op", "opset")
    )
    done = run(folder, store, models + "[[matrix]]\n")
    for name, wanted, hint in (("op", "unsupported", "Frobnicate"), ("opset", "incompatible", "99")):
        status, reason = verdict(done, name)
        assert status == wanted
        assert hint in reason


def test_external_data(folder: Path, store: Path) -> None:
    model = onnx.load(folder / "good.onnx")
    onnx.save(model, folder / "ext.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "outside.bin").write_bytes((folder / "weights.bin").read_bytes())
    inner = folder / "inner"
    inner.mkdir()
    for name, location in (("escape", "../outside.bin"), ("gone", "nowhere.bin")):
        moved = onnx.load(folder / "ext.onnx", load_external_data=False)
        for tensor in moved.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        onnx.save(moved, inner / f"{name}.onnx")
    text = "".join(
        f'[models.{name}]\npath = "path:{path}.onnx"\nvalidation = "path:data"\n'
        for name, path in (("ext", "ext"), ("escape", "inner/escape"), ("gone", "inner/gone"))
    )
    done = run(folder, store, text + "[[matrix]]\n")
    assert done.code == 1
    assert verdict(done, "ext")[0] == "pass"
    refused = ("escape", "blocked", "'../outside.bin', which is refused")
    for name, wanted, hint in (refused, ("gone", "damaged", "nowhere.bin")):
        status, reason = verdict(done, name)
        assert status == wanted
        assert hint in reason


@pytest.mark.parametrize(
    ("name", "feeds", "hint"),
    [
        ("names", {"input": np.zeros((1, 32), np.float32)}, "x"),
        ("shapes", {"x": np.zeros((1, 31), np.float32)}, "31"),
        ("dtypes", {"x": np.full((1, 32), "text")}, "float"),
    ],
)
def test_data_that_do_not_fit(folder: Path, store: Path, name: str, feeds: dict[str, np.ndarray], hint: str) -> None:
    (folder / name).mkdir()
    np.savez(folder / name / "0.npz", **feeds)
    done = run(folder, store, f'[models.m]\npath = "path:good.onnx"\nvalidation = "path:{name}"\n[[matrix]]\n')
    status, reason = verdict(done, "m")
    assert status in {"failed", "blocked"}
    assert hint in reason


def test_unknown_ep(folder: Path, store: Path) -> None:
    done = run(
        folder, store, '[targets.t]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\neps = ["openvinno"]\n'
    )
    assert done.code == 2
    assert "openvino" in done.err


def test_eps_of_other_devices_are_unsupported_with_a_reason(folder: Path, store: Path) -> None:
    done = run(
        folder,
        store,
        '[targets.t]\nfrom = "package"\nrequires = ["onnxruntime-directml==1.23.0"]\n'
        'eps = ["directml", "coreml"]\n[[matrix]]\n',
    )
    found = {cell["ep"]: cell for cell in done.report["cells"] if cell["target"] == "t"}
    assert {cell["status"] for cell in found.values()} == {"unsupported"}
    assert all(cell["reasons"] for cell in found.values())


def test_a_package_that_does_not_exist(folder: Path, store: Path) -> None:
    text = '[targets.t]\nfrom = "package"\nrequires = ["onnxruntime==1.32.99"]\n[[matrix]]\n'
    done = run(folder, store, text)
    cells = {cell["target"]: cell for cell in done.report["cells"]}
    assert cells["stock"]["status"] == "pass"
    assert cells["t"]["status"] == "blocked"
    assert "1.32.99" in " ".join(cells["t"]["reasons"])


def test_no_network(folder: Path, tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9/simple"
    done = run(
        folder,
        tmp_path / "own-store",
        "[[matrix]]\n",
        UV_DEFAULT_INDEX=dead,
        UV_INDEX_URL=dead,
        UV_CACHE_DIR=str(tmp_path / "empty-cache"),
        UV_HTTP_TIMEOUT="2",
    )
    assert done.code in {1, 4}
    text = (done.out + done.err).lower()
    assert "network" in text or "could not be reached" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_loses_nothing(folder: Path, store: Path) -> None:
    small = folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this root may not mount a small disk (a container without CAP_SYS_ADMIN)")
    try:
        done = run(folder, small, "[[matrix]]\n")
        assert done.code in {1, 4}
        assert "space" in (done.out + done.err).lower()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_unwritable_store(folder: Path) -> None:
    (folder / "file").write_text("a file, not a folder")
    done = run(folder, folder / "file", "[[matrix]]\n")
    assert done.code == 4
    assert "--store" in done.err


def test_broken_and_doubled_plugins(folder: Path, store: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    for number, (name, body) in enumerate(
        (("boom", "import nothing_of_that_name"), ("twin", "def ortforge_metrics(): return []"))
    ):
        info = extra / f"dist{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (extra / f"{name}_plugin.py").write_text(body)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist{number}\nVersion: 1.0\n")
        lines = f"{name} = {name}_plugin\n"
        (info / "entry_points.txt").write_text(f"[ortforge]\n{lines}")
    info = extra / "dist2-1.0.dist-info"
    shutil.copytree(extra / "dist1-1.0.dist-info", info)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist2\nVersion: 1.0\n")
    listed = ortforge(folder, "plugins", "list", "--json", PYTHONPATH=str(extra))
    assert listed.code == 0, listed.err
    rows = {(row["name"], row["distribution"]): row for row in json.loads(listed.out)}
    assert rows["boom", "dist0"]["status"] != "loaded"
    assert "nothing_of_that_name" in rows["boom", "dist0"]["error"]
    twins = [row for row in rows.values() if row["name"] == "twin"]
    assert any(row["error"] for row in twins)
    done = run(folder, store, "[[matrix]]\n", PYTHONPATH=str(extra))
    assert done.code == 0, done.err


def test_unknown_verb_is_answered_with_the_nearest(folder: Path) -> None:
    done = ortforge(folder, "rum")
    assert done.code == 2
    assert "run" in done.err
