"""``explain`` names the node whose one scale ruins some slices of an output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_jobs import run_pass

from ortforge.api.explained import mixed_sentences
from ortforge.runtime.supervisor import JobOutcome
from ortforge.worker.mixed_scales import SliceErrors, ruined_slices
from ortforge.worker.samples import SampleWriter

Supervise = Callable[..., JobOutcome]
node = helper.make_node


def model(tail: str) -> onnx.ModelProto:
    """Boxes in pixels and scores up to 1 ([1, 4, 50] and [1, 3, 50]), put together as ``tail`` says."""
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {
        "w1": rng.standard_normal((8, 3, 1)).astype(np.float32),
        "wb": rng.standard_normal((4, 8, 1)).astype(np.float32) / 3,
        "wc": rng.standard_normal((3, 8, 1)).astype(np.float32) / 3,
        "w7": rng.standard_normal((7, 8, 1)).astype(np.float32) / 3,
        "pixels": np.float32(640),
        "factors": np.float32([640, 640, 640, 640, 1, 1, 1]).reshape(1, 7, 1),
    }
    nodes = [
        node("Conv", ["x", "w1"], ["c"], name="backbone"),
        node("Relu", ["c"], ["r"], name="relu"),
        node("Conv", ["r", "wb"], ["b0"], name="box_conv"),
        node("Sigmoid", ["b0"], ["b1"], name="box_sigmoid"),
        node("Mul", ["b1", "pixels"], ["large"], name="to_pixels"),
        node("Conv", ["r", "wc"], ["s0"], name="score_conv"),
        node("Sigmoid", ["s0"], ["small"], name="score_sigmoid"),
    ]
    if tail == "concat":
        nodes += [node("Concat", ["large", "small"], ["y"], name="merge", axis=1)]
    elif tail == "transposed":
        nodes += [node("Concat", ["small", "large"], ["m"], name="merge", axis=1)]
        nodes += [node("Transpose", ["m"], ["y"], name="turn", perm=[0, 2, 1])]
    elif tail == "factor":
        nodes = [*nodes[:2], node("Conv", ["r", "w7"], ["a"], name="head"), node("Sigmoid", ["a"], ["b"], name="sig")]
        nodes += [node("Mul", ["b", "factors"], ["y"], name="merge")]
    else:  # the same head, with all values of one size
        nodes = [one for one in nodes if one.name != "to_pixels"]
        nodes += [node("Concat", ["b1", "small"], ["y"], name="merge", axis=1)]
    shape = [1, 50, 7] if tail == "transposed" else [1, 7, 50]
    used = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


@pytest.fixture
def compared(supervise: Supervise, tmp_path: Path) -> Callable[..., Mapping[str, Any]]:
    """Quantize a model with the real pass, and compare it with the float one as ``explain`` does."""
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.random((1, 3, 50)).astype(np.float32)} for _ in range(6)]

    def compare(tail: str, **parameters: Any) -> Mapping[str, Any]:
        before = tmp_path / f"{tail}.onnx"
        onnx.save(model(tail), before)
        _, after = run_pass(tmp_path, "quantize-static", before, feeds, **parameters)
        writer = SampleWriter(tmp_path / f"samples-{len(list(tmp_path.iterdir()))}")
        for feed in feeds:
            writer.write(feed)
        writer.close()
        job = {"op": "differences", "model": str(after), "reference": str(before), "samples": str(writer.folder)}
        job |= {"count": 6, "threshold_db": 17.0, "providers": [["CPUExecutionProvider", {}]], "session": {}}
        outcome = supervise(job)
        assert outcome.status == "ok", outcome.reason
        return outcome.result

    return compare


@pytest.mark.parametrize(
    ("tail", "form", "axis", "numbers"),
    [
        ("concat", "QDQ", 1, [4, 5, 6]),
        ("concat", "QOperator", 1, [4, 5, 6]),
        ("transposed", "QDQ", 2, [0, 1, 2]),
        ("factor", "QDQ", 1, [4, 5, 6]),
    ],
)
def test_the_node_that_merges_values_of_different_size_is_named(
    compared: Callable[..., Mapping[str, Any]], tail: str, form: str, axis: int, numbers: list[int]
) -> None:
    found = compared(tail, format=form)
    first = found["mixed"][0]
    assert first["node"] == "merge"
    assert (first["axis"], first["ruined"], first["slices"]) == (axis if first["tensor"] == "y" else 1, 3, 7)
    assert first["numbers"] == numbers
    assert "merge" in found["nodes_to_exclude"]
    assert found["ruined_outputs"][0]["ruined"] == 3
    text = next(mixed_sentences(found))
    assert text.startswith("merge (") and "ruins 3 of 7 slices" in text

    # What is proposed helps: no slice is ruined with it.
    without = compared(tail, format=form, nodes_to_exclude=found["nodes_to_exclude"])
    assert without["ruined_outputs"] == [] and without["mixed"] == []


def test_values_of_one_size_in_one_tensor_are_no_fault(compared: Callable[..., Mapping[str, Any]]) -> None:
    found = compared("even")
    assert found["mixed"] == [] and found["ruined_outputs"] == []


# Slices


def test_a_slice_is_measured_against_its_own_variation() -> None:
    rng = np.random.default_rng(0)
    value = rng.standard_normal((1, 3, 200))
    value[:, 2] *= 1e-3
    sums = SliceErrors()
    sums.add(value, value + 1e-3 * rng.standard_normal(value.shape))
    found = ruined_slices(sums)
    assert found is not None and (found["axis"], found["numbers"]) == (1, [2])


def test_a_slice_without_signal_raises_no_alarm() -> None:
    rng = np.random.default_rng(0)
    value = rng.standard_normal((1, 3, 200))
    value[:, 2] = 0.0
    sums = SliceErrors()
    sums.add(value, value + 1e-7 * rng.standard_normal(value.shape))
    assert ruined_slices(sums) is None


def test_free_dimensions_and_values_that_are_not_finite_are_left_out() -> None:
    rng = np.random.default_rng(0)
    sums = SliceErrors()
    for length in (5, 7):
        value = rng.standard_normal((length, 4))
        other = value.copy()
        value[0, 0] = np.inf
        other[:, 3] = 0.0
        sums.add(value, other)
    found = ruined_slices(sums)
    assert found is not None and (found["axis"], found["slices"], found["numbers"]) == (1, 4, [3])


def test_a_large_tensor_is_looked_at_in_part() -> None:
    value = np.random.default_rng(0).standard_normal((1, 4, 600_000)).astype(np.float32)
    other = value.copy()
    other[:, 1] = 0.0
    sums = SliceErrors()
    sums.add(value, other)
    found = ruined_slices(sums)
    assert found is not None and (found["axis"], found["numbers"]) == (1, [1])
