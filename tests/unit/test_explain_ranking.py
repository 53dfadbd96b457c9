"""Whose noise it is: the tensors and weights that are blamed for what a quantized model's outputs lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortforge.worker.attribution import Grid, Place, Rounded, first_nodes, places
from ortforge.worker.differences import Sums
from ortforge.worker.matching import grids, match, quantized_nodes, weight_pairs

from .pass_jobs import picture_model, pictures, run_pass


def graph(nodes: Sequence[tuple[str, Sequence[str], str]], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A graph of nodes named after what they put out."""
    made = [helper.make_node(op, list(reads), [out], name=out) for op, reads, out in nodes]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in side] for side in (inputs, outputs)
    ]
    return helper.make_graph(made, "g", *ends)


def blamed(found: Sequence[Place]) -> dict[str, float]:
    return {place.tensor: round(place.share, 3) for place in found}


def test_an_amplifier_is_not_blamed_for_what_came_in() -> None:
    # b is the difference of two nearly equal tensors: 1 % of noise in p and q is 80 % in b, whose own rounding is fine.
    chain = graph([("Mul", ["x", "x"], "p"), ("Exp", ["x"], "q"), ("Sub", ["p", "q"], "b")], ["x"], ["b"])
    measured = {"p": (0.01, 100.0), "q": (0.01, 100.0), "b": (0.8, 2.5)}
    rounding = {"p": 0.01, "q": 0.01, "b": 0.0001}
    found = places(chain, measured, rounding, {}, {"p", "q", "b"}, {})
    assert blamed(found) == {"p": 0.5, "q": 0.5, "b": 0.0}
    assert {place.tensor: place.nodes for place in found}["p"] == ("p", "b")


def test_the_larger_term_of_a_sum_is_blamed() -> None:
    both = graph([("Exp", ["x"], "p"), ("Log", ["x"], "q"), ("Add", ["p", "q"], "s")], ["x"], ["s"])
    measured = {"p": (0.01, 900.0), "q": (0.01, 100.0), "s": (0.01, 1000.0)}
    found = places(both, measured, {"p": 0.01, "q": 0.01}, {}, {"p", "q", "s"}, {})
    assert blamed(found) == {"p": 0.9, "q": 0.1}


def test_a_noisy_weight_is_blamed_at_its_own_node_alone() -> None:
    line = graph([("MatMul", ["x", "w"], "m"), ("Tanh", ["m"], "t")], ["x"], ["t"])
    found = places(line, {"m": (0.1, 1.0), "t": (0.1, 1.0)}, {"m": 0.001, "t": 0.001}, {"w": 0.099}, {"m", "t"}, {})
    assert found[0].tensor == "w" and found[0].is_weight and found[0].nodes == ("m",)
    assert found[0].share > 0.9


def test_nothing_quantized_means_nobody_to_blame() -> None:
    line = graph([("Tanh", ["x"], "t")], ["x"], ["t"])
    assert places(line, {"t": (0.1, 1.0)}, {}, {}, set(), {}) == []
    assert places(line, {"t": (0.0, 1.0)}, {"t": 0.0}, {}, {"t"}, {}) == []


def test_the_proposed_list_covers_half_of_the_noise() -> None:
    ranked = [Place(name, name, "Conv", share, (name,)) for name, share in (("a", 0.4), ("b", 0.3), ("c", 0.3))]
    assert first_nodes(ranked, 0.5, 10) == ["a", "b"]
    assert first_nodes(ranked, 0.5, 1) == ["a"]


def test_a_grid_rounds_as_onnx_runtime_does() -> None:
    eight = Grid(0, 255, 0.5, 10.0)
    assert eight.rounded(np.array([-100.0, 0.2, 0.3, 1.0, 1000.0])).tolist() == [-5.0, 0.0, 0.5, 1.0, 122.5]
    # Of its own range, as DynamicQuantizeLinear: [-1, 1] in 255 steps.
    assert np.abs(Grid(0, 255).rounded(np.linspace(-1, 1, 999)) - np.linspace(-1, 1, 999)).max() < 1 / 254
    large = Rounded()
    large.add(np.random.default_rng(0).normal(size=3_000_000).astype(np.float32), Grid(-128, 127, 0.05))
    assert large.noise == pytest.approx(0.05**2 / 12, rel=0.02)


def test_what_is_no_number_counts_as_broken() -> None:
    sums = Sums()
    sums.add(np.array([1.0, np.inf, np.nan, 2.0]), np.array([1.0, np.inf, np.nan, np.nan]))
    assert sums.broken == 1 and sums.noise == np.inf
    assert sums.facts()["sqnr_db"] is None and not sums.facts()["exact"]


# Real quantized models


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_weights_per_channel_and_biases_are_found(tmp_path: Path, form: str) -> None:
    model = picture_model()
    _, path = run_pass(tmp_path, "quantize-static", model, pictures(8)[0], format=form, per_channel=True)
    quantized = onnx.load(path).graph
    pairs = {name: (value, other) for name, value, other in weight_pairs(model.graph, quantized)}
    # Integer operators have no scale for a bias: it is that of their input times that of their weight.
    assert set(pairs) == ({"a", "b", "w", "c"} if form == "QDQ" else {"a", "b", "w"})
    for value, other in pairs.values():
        assert np.abs(value - other).max() <= np.abs(value).max() / 100


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_operators_that_hand_integers_on_are_matched_by_their_neighbours_scale(tmp_path: Path, form: str) -> None:
    draw = np.random.default_rng(1)
    arrays = {name: draw.normal(size=(4, size, 3, 3)).astype(np.float32) for name, size in (("a", 3), ("b", 4))}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["p"], ["t"], name="turn", perm=[0, 1, 3, 2]),
        helper.make_node("Conv", ["t", "b"], ["y"], name="second"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 16, 16]), ("y", None))]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    _, path = run_pass(tmp_path, "quantize-static", model, pictures(8)[0], format=form)
    quantized = onnx.load(path).graph
    assert set(match(model.graph, quantized)) == {"c", "p", "t", "y"}
    assert {"x", "c", "y"} <= set(grids(model.graph, quantized))
    assert {"first", "second"} <= quantized_nodes(model.graph, quantized)
