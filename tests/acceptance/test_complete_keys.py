"""A result is not used again when anything that it depends on has changed, and is used again when nothing has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Result, ortforge
from models import classifier

MATRIX = """
[models.classifier]
path = "path:classifier.onnx"
validation = "python:inputs.py:{function}"

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]

[limits]
timing_s = 0

[[matrix]]
"""

INPUTS = """
import random
from pathlib import Path
import numpy as np
from shapes import SHAPE

def seeded(seed):
    values = np.load(Path(__file__).parent.parent / "data" / "values.npy")
    for number in range(4):
        yield {INPUT: np.random.default_rng([seed, number]).normal(size=SHAPE).astype(np.float32) * values[number]}

def unseeded():
    for number in range(4):
        yield {INPUT: np.random.normal(size=SHAPE).astype(np.float32)}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    import onnx

    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "values.npy", np.arange(1, 5, dtype=np.float32))
    classifier(folder / "classifier.onnx")
    given = onnx.load(folder / "classifier.onnx").graph.input[0]
    shape = [dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim]
    (folder / "inputs.py").write_text(f"INPUT = {given.name!r}\n" + INPUTS)
    (folder / "shapes.py").write_text(f"SHAPE = {shape}\n")
    write_matrix(folder, "seeded")
    return folder


def write_matrix(folder: Path, function: str) -> None:
    (folder / "matrix.toml").write_text(MATRIX.format(function=function))


def steps_run(folder: Path, store: Path, **environment: str) -> tuple[Result, int]:
    done = ortforge(folder, "run", "--store", str(store), "--json", **environment)
    return done, done.report["run"]["steps"]["run"]


def states(folder: Path, store: Path, **environment: str) -> Mapping[str, Any]:
    done = ortforge(folder, "plan", "--store", str(store), "--json", **environment)
    plan = json.loads(done.out)
    return {step["id"]: step for step in plan["steps"]} | {"notes": plan["notes"]}


def test_what_code_of_a_dataset_reads_is_part_of_its_result(project: Path, store: Path) -> None:
    done, count = steps_run(project, store)
    assert count > 0
    assert not [note for note in done.report["notes"] if "each time" in note]
    (project / "unrelated.py").write_text("A = 1\n")
    (project / "notes.txt").write_text("nothing\n")
    assert steps_run(project, store)[1] == 0

    np.save(project.parent / "data" / "values.npy", np.arange(2, 6, dtype=np.float32))
    dataset = states(project, store)["dataset:classifier/validation"]
    assert dataset["state"] == "run"
    assert "values.npy has changed" in dataset["why"]
    assert steps_run(project, store)[1] >= 4  # dataset, reference, check, compare
    assert steps_run(project, store)[1] == 0

    shapes = (project / "shapes.py").read_text()
    (project / "shapes.py").write_text(shapes + "# another comment\n")
    assert steps_run(project, store)[1] == 1, "the samples are the same, so what is made from them stands"


def test_variables_that_select_a_library_are_part_of_keys(project: Path, store: Path) -> None:
    assert steps_run(project, store)[1] >= 0
    assert steps_run(project, store, HARMLESS="1")[1] == 0
    planned = states(project, store, OMP_NUM_THREADS="1")
    check = planned["check:classifier/none@stock:cpu/here"]
    assert "OMP_NUM_THREADS" in planned["reference:classifier"]["why"]
    assert check["state"] == "run"
    assert check["why"] == "the environment variable has changed: OMP_NUM_THREADS"
    assert any("OMP_NUM_THREADS" in note for note in planned["notes"])
    assert steps_run(project, store, OMP_NUM_THREADS="1")[1] >= 2
    assert steps_run(project, store, OMP_NUM_THREADS="1")[1] == 0
    assert steps_run(project, store)[1] == 0, "the earlier results stand"


def test_a_dataset_without_a_seed_is_named(project: Path, store: Path) -> None:
    write_matrix(project, "unseeded")
    done, _ = steps_run(project, store)
    (note,) = [note for note in done.report["notes"] if "each time" in note]
    assert "python:inputs.py:unseeded" in note
    assert "sample 0 differs" in note
    assert "Seed" in note
    assert note in done.err


def test_a_lock_is_followed_and_a_false_one_is_refused(project: Path, store: Path) -> None:
    assert ortforge(project, "lock").code == 0
    lock = json.loads((project / "matrix.lock").read_text())
    assert set(lock["targets"]) == {"stock", "@reference"}
    done, _ = steps_run(project, store)
    assert done.cells["classifier/none@stock:cpu/here"]["status"] != "failed", done.err[-2000:]
    assert steps_run(project, store)[1] == 0

    (packages,) = lock["targets"]["stock"]["environments"].values()
    numpy = next(package for package in packages if package["name"] == "numpy")
    numpy["wheels"] = dict.fromkeys(numpy["wheels"], "0" * 64)
    (project / "matrix.lock").write_text(json.dumps(lock))
    done, _ = steps_run(project, store)
    (reason,) = done.cells["classifier/none@stock:cpu/here"]["reasons"]
    assert "lock file does not allow numpy" in reason
    assert "ortforge lock" in reason
    assert ortforge(project, "lock", "--check").code == 1

    text = (project / "matrix.toml").read_text().replace("onnxruntime==1.32.0", "onnxruntime>=1.31")
    (project / "matrix.toml").write_text(text)
    refused = ortforge(project, "plan", "--store", str(store))
    assert refused.code == 2
    assert "other requirements of the target stock" in refused.err


def test_a_model_that_changes_during_the_run_is_refused(project: Path, tmp_path: Path) -> None:
    """The dataset's code of one model rewrites another one's file, as a program beside the run would."""
    plan = states(project, tmp_path / "own")
    assert plan["fetch:classifier"]["state"] == "run"
    from ortforge.api import FetchError, Task
    from ortforge.cli.shared import known
    from ortforge.engine.steps import fetch
    from ortforge.engine.work import ready
    from ortforge.matrix import load
    from ortforge.plan.planner import make_plan
    from ortforge.plugin_manager import Plugins
    from ortforge.runtime import device

    plugins = Plugins()
    made = make_plan(load(project / "matrix.toml", known(plugins)), plugins, device.probe(), worker="w")
    step = made.steps["fetch:classifier"]
    model = project / "classifier.onnx"
    model.write_bytes(model.read_bytes() + b"\x32\x01a")  # a doc_string
    task = Task(step.id, step.kind, "key", step.parameters, (), str(tmp_path / "own"), context=step.context)
    with pytest.raises(FetchError, match=r"path:classifier\.onnx changed while the run used it.*classifier\.onnx"):
        fetch.run(task, ready(str(tmp_path / "own")))
