"""What a reduced build is told of its models: operators and types, before and after a session's own optimizations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ortforge.build import proof
from ortforge.engine.steps.operators import configuration
from ortforge.runtime.supervisor import JobOutcome

Supervise = Callable[..., JobOutcome]
value = helper.make_tensor_value_info


def branching(path: Path) -> Path:
    """Save a model with float16 in a branch of an If alone, and a convolution that sessions fuse with its ReLU."""
    half = helper.make_graph(
        [
            helper.make_node("Cast", ["r"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Abs", ["h"], ["a"]),
            helper.make_node("Cast", ["a"], ["then"], to=TensorProto.FLOAT),
        ],
        "half",
        [],
        [value("then", TensorProto.FLOAT, None)],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["else"])], "same", [], [value("else", TensorProto.FLOAT, None)]
    )
    kernel = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("If", ["condition"], ["y"], then_branch=half, else_branch=same),
        ],
        "branching",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8]), value("condition", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, None)],
        [kernel],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_branches_and_what_a_session_makes_of_a_graph_are_found(supervise: Supervise, tmp_path: Path) -> None:
    outcome = supervise({"op": "operators", "models": [str(branching(tmp_path / "model.onnx"))]})
    assert outcome.status == "ok", outcome.reason
    found = {tuple(entry) for entry in outcome.result["operators"]}
    assert {("ai.onnx", 17, "Conv"), ("ai.onnx", 17, "Relu"), ("ai.onnx", 17, "Abs")} <= found
    assert ("com.microsoft", 1, "FusedConv") in found
    assert {"BOOL", "FLOAT", "FLOAT16"} <= set(outcome.result["types"])
    assert "INT8" not in outcome.result["types"]


def test_the_model_that_proves_a_wheel_can_be_read_like_any_other(supervise: Supervise, tmp_path: Path) -> None:
    path, _ = proof.write(tmp_path)
    outcome = supervise({"op": "operators", "models": [str(path)]})
    assert {("ai.onnx", 13, "MatMul"), ("ai.onnx", 13, "Relu")} <= {tuple(e) for e in outcome.result["operators"]}
    assert outcome.result["types"] == ["FLOAT"]


def test_the_list_has_a_line_for_each_opset_and_one_for_types() -> None:
    text = configuration([("ai.onnx", 17, "Abs"), ("ai.onnx", 13, "Add"), ("ai.onnx", 17, "Abs")], ["FLOAT16", "INT4"])
    assert text.splitlines() == [
        "!globally_allowed_types;MLFloat16,bool,float,int32_t,int64_t",
        "ai.onnx;13;Add",
        "ai.onnx;17;Abs",
    ]
