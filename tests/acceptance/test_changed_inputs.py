"""Recipes that change the types of a model's inputs: what follows in the recipe, and every run, is fed such samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Result, ortforge
from models import classifier, samples
from onnx import TensorProto, helper, numpy_helper

from ortforge.portable.statuses import CORRECT

HERE = "stock:cpu/here"
MATRIX = """
[models.classifier]
path = "path:classifier.onnx"
validation = "path:samples"
calibration = "path:samples"
tolerance = { cosine = 0.99 }

[models.words]
path = "path:words.onnx"
validation = "path:words"
calibration = "path:words"
tolerance = { cosine = 0.98 }

[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]

[recipes.half]
passes = [{ use = "float16", keep_io_types = false }]

[recipes.half-tuned]
passes = [
    { use = "float16", keep_io_types = false },
    { use = "tune-session", settings = ["intra_op_threads"], threads = [1], budget_s = 2.0, rounds = 2 },
]

[recipes.narrow]
passes = [
    { use = "transformer-optimizer", input_int32 = true },
    { use = "quantize-static", op_types = ["MatMul"] },
]

[limits]
timing_s = 0.5
rounds = 2

[[matrix]]
models = ["classifier"]
recipes = ["half", "half-tuned"]
[[matrix]]
models = ["words"]
recipes = ["narrow"]
"""


def words(path: Path, *, count: int = 50, width: int = 32, seed: int = 0) -> Path:
    """Write a model that looks words up, int64 ``ids`` of (batch, length), and multiplies what it finds."""
    draw = np.random.default_rng(seed)
    weights = {
        "table": draw.normal(size=(count, width)),
        "first": draw.normal(size=(width, width)) / width**0.5,
        "second": draw.normal(size=(width, 8)) / width**0.5,
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"], name="look up"),
        helper.make_node("MatMul", ["found", "first"], ["hidden"], name="first"),
        helper.make_node("Relu", ["hidden"], ["kept"], name="relu"),
        helper.make_node("MatMul", ["kept", "second"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 8])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Result:
    folder = tmp_path_factory.mktemp("inputs")
    classifier(folder / "classifier.onnx")
    samples(folder / "samples")
    words(folder / "words.onnx")
    (folder / "words").mkdir()
    draw = np.random.default_rng(3)
    for number in range(12):
        np.savez(folder / "words" / f"{number:03}.npz", ids=draw.integers(0, 50, (1, 16)))
    (folder / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    return ortforge(folder, "run", "--store", str(store), "--json")


def cell(done: Result, name: str) -> dict[str, Any]:
    found = done.cells[f"{name}@{HERE}"]
    assert found["status"] in CORRECT, (found["reasons"], done.err[-2000:])
    return found


@pytest.mark.parametrize("recipe", ["half", "half-tuned"])
def test_a_model_that_takes_halves_is_given_halves_and_timed(done: Result, recipe: str) -> None:
    found = cell(done, f"classifier/{recipe}")
    assert found["parity"]["worst"]["cosine"] > 0.999
    assert found["artefact"]["changed"]["float16"]["float16_weights"] == 3
    assert found["timing"]["ratio"] > 0


def test_what_narrow_inputs_are_quantized_on_and_run_with_fits(done: Result) -> None:
    found = cell(done, "words/narrow")
    changed = found["artefact"]["changed"]
    assert changed["quantize-static"]["calibration_samples"] == 12
    assert changed["quantize-static"]["quantized"]["QuantizeLinear"] > 0
    assert found["parity"]["worst"]["cosine"] > 0.98
    assert found["timing"]["ratio"] > 0
