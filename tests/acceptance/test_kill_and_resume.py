"""SIGKILL at random moments loses nothing that was finished, and leaves no process behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from command import ORTFORGE, ortforge
from models import classifier, samples

MATRIX = """
[limits]
timing_s = 0.5
rounds = 1
[tolerance]
speed = "any"
cosine = 0.9
[models.one]
path = "path:one.onnx"
validation = "path:data"
calibration = "path:data"
[models.two]
path = "path:two.onnx"
validation = "path:data"
calibration = "path:data"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.older]
from = "package"
requires = ["onnxruntime==1.21.1"]
[recipes.dynamic]
passes = [{ use = "quantize-dynamic" }]
[recipes.static]
passes = [{ use = "preprocess" }, { use = "quantize-static" }]
[[matrix]]
"""
MOMENTS = 20


def workers(store: Path) -> list[int]:
    """Return the worker processes that belong to a store."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(store) in line and "ortforge_worker" in line:
            found.append(process.info["pid"])
    return found


def verdicts(report: dict[str, Any]) -> dict[str, Any]:
    """Return what must not depend on interruptions: statuses and parity, bit for bit."""
    return {cell["id"]: (cell["status"], json.dumps(cell["parity"], sort_keys=True)) for cell in report["cells"]}


def test_twenty_kills(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        classifier(tmp_path / f"{name}.onnx", seed=seed)
    samples(tmp_path / "data")
    (tmp_path / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    whole = tmp_path / "whole"
    undisturbed = ortforge(tmp_path, "run", "--store", str(whole), "--json")
    assert len(undisturbed.report["cells"]) == 12, undisturbed.err

    store = tmp_path / "killed"
    chance = random.Random(20261122)
    finished = 0
    for moment in range(MOMENTS):
        process = subprocess.Popen(
            [ORTFORGE, "run", "--store", str(store)],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(timeout=chance.uniform(0.2, 2.5))
            finished += 1
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 5
        while workers(store) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not workers(store), f"workers outlived kill {moment}"
    assert finished < MOMENTS / 2, "the run ends too soon for the kills to hit it"

    resumed = ortforge(tmp_path, "run", "--store", str(store), "--json")
    assert verdicts(resumed.report) == verdicts(undisturbed.report)
    again = ortforge(tmp_path, "run", "--store", str(store), "--json")
    assert again.report["run"]["steps"]["run"] == 0
    assert verdicts(again.report) == verdicts(undisturbed.report)


def test_a_damaged_object_is_made_again(tmp_path: Path, store: Path) -> None:
    classifier(tmp_path / "one.onnx", seed=1)
    classifier(tmp_path / "two.onnx", seed=2)
    samples(tmp_path / "data")
    (tmp_path / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    own = tmp_path / "own"
    first = ortforge(tmp_path, "run", "--store", str(own), "--json", "--cell", "one/*@stock*")
    for path in (own / "objects").rglob("*.npz"):
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    # The cells that are new now need the damaged samples and reference outputs.
    second = ortforge(tmp_path, "run", "--store", str(own), "--json", "--cell", "one/*")
    assert "Traceback" not in second.err
    assert {"failed", "blocked"}.isdisjoint(cell["status"] for cell in second.report["cells"]), second.out[-2000:]
    before = verdicts(first.report)
    assert {name: found for name, found in verdicts(second.report).items() if name in before} == before
