"""Which branches of a model the samples take, and what is said of a model that differs from itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortforge.engine.evidence import branch_notes, instability
from ortforge.worker import branches
from ortforge.worker.samples import SampleWriter


class Heard:
    """What a job reports."""

    def __init__(self) -> None:
        self.result: dict[str, Any] = {}

    def phase(self, name: str) -> None:
        """Take a phase."""

    def finish(self, result: dict[str, Any]) -> None:
        """Take the result."""
        self.result = result


def model(path: Path, *, constant: bool = False) -> Path:
    """A model whose one If asks whether the sum is positive, and whose other one asks the input ``flag``."""

    def branch(name: str, op: str) -> Any:
        return helper.make_graph(
            [helper.make_node(op, ["x"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N"])],
        )

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["a"], name="sign", then_branch=branch("t1", "Abs"), else_branch=branch("e1", "Neg")
        ),
        helper.make_node(
            "If", ["flag"], ["b"], name="asked", then_branch=branch("t2", "Exp"), else_branch=branch("e2", "Relu")
        ),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"]), *([] if constant else [flag])]
    weights = [numpy_helper.from_array(np.float32(0.0), "zero")]
    weights += [numpy_helper.from_array(np.array(True), "flag")] if constant else []
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(nodes, "g", inputs, [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def taken(folder: Path, rows: list[dict[str, Any]], *, constant: bool = False) -> dict[str, Any]:
    writer = SampleWriter(folder / "samples")
    for row in rows:
        writer.write(row)
    writer.close()
    heard = Heard()
    job = {"model": str(model(folder / "m.onnx", constant=constant)), "samples": str(folder / "samples")}
    branches.run({**job, "session": {"graph_optimization_level": "disable"}}, heard)  # type: ignore[arg-type]
    return heard.result


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sample(value: float, flag: bool) -> dict[str, Any]:
    return {"x": np.full(3, value, np.float32), "flag": np.array(flag)}


def test_branches_that_no_sample_takes_are_named(tmp_path: Path) -> None:
    found = taken(tmp_path, [sample(1.0, True), sample(-1.0, True)])
    assert found == {
        "conditions": 2,
        "both": 1,
        "one_sided": [{"node": "asked", "taken": "then"}],
        "hidden": 0,
    }
    (note,) = branch_notes({"branches": found})
    assert "1 of 2 If nodes take one branch only in these samples: asked (then)" in note


def test_all_branches_taken_leaves_nothing_to_say(tmp_path: Path) -> None:
    found = taken(tmp_path, [sample(1.0, True), sample(-1.0, False)])
    assert (found["both"], found["one_sided"], branch_notes({"branches": found})) == (2, [], [])


def test_a_constant_condition_takes_one_branch(tmp_path: Path) -> None:
    rows = [{"x": np.full(3, value, np.float32)} for value in (1.0, -1.0)]
    assert taken(tmp_path, rows, constant=True)["one_sided"] == [{"node": "asked", "taken": "then"}]


def test_a_model_that_differs_from_itself_is_called_that_with_its_operators() -> None:
    unstable = {"self_difference": {"unstable": {"y": {"largest": 0.4, "elements": 8}}}}
    said = instability(unstable, {"random_ops": [{"op": "Dropout", "name": "drop"}]})
    assert 'output "y" changes by up to 0.4 of its range' in said
    assert "random operators: Dropout drop" in said


@pytest.mark.parametrize("difference", [{}, {"y": {"largest": 1e-7, "elements": 8}}])
def test_sums_in_another_order_are_no_instability(difference: dict[str, Any]) -> None:
    assert instability({"self_difference": {"unstable": difference}}, {}) == ""
