"""The parts of the search for a quantization, each held against what it imitates or what it claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from ortforge.plugins.passes._auto import (
    candidate_choice,
    node_noise,
    scheme_table,
    smoothing,
    trial_bench,
    weight_blocks,
)
from ortforge.plugins.passes._measuring import closeness, pair_timing

from ortforge.portable.comparison.parity import compare

RNG = np.random.default_rng(11)
OUTLIERS = (3, 77)
Feeds = list[dict[str, Any]]


def outlier_model(*, transposed: bool = False) -> onnx.ModelProto:
    """Three multiplications; two channels of what the second one reads are fifty times as large as all others."""
    gain = np.ones(256, np.float32)
    gain[list(OUTLIERS)] = 50.0
    second = (RNG.normal(size=(256, 64)) * 0.1).astype(np.float32)
    second[list(OUTLIERS)] /= 50.0
    weights = {
        "w1": (RNG.normal(size=(64, 256)) * 0.2).astype(np.float32),
        "gain": gain,
        "w2": second,
        "w3": (RNG.normal(size=(64, 64)) * 0.2).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Mul", ["b", "gain"], ["c"], name="gain"),
        helper.make_node("MatMul", ["c", "w2"], ["d"], name="second"),
        helper.make_node("Add", ["d", "x"], ["e"], name="skip"),
        helper.make_node("MatMul", ["e", "w3"], ["embedding"], name="third"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n", 64])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, "n", 64])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds(count: int, seed: int = 3) -> Feeds:
    draw = np.random.default_rng(seed)
    return [{"x": draw.normal(size=(1, 32, 64)).astype(np.float32)} for _ in range(count)]


def answers(model: onnx.ModelProto | Path, samples: Feeds) -> Feeds:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return [dict(zip(names, session.run(None, sample), strict=True)) for sample in samples]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> trial_bench.Bench:
    folder = tmp_path_factory.mktemp("bench")
    onnx.save(outlier_model(), folder / "model.onnx")
    return trial_bench.ready(folder / "model.onnx", feeds(8), folder)


def test_what_onnx_runtime_fuses_into_a_gemm_can_be_quantized_for_any_ep(tmp_path: Path) -> None:
    """Its bias comes out as [1, N], and the scales of a quantized one would stand for the axis of length 1."""
    weights = [numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)
               for name, shape in {"w": (16, 8), "b": (1, 8)}.items()]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    samples = [{"x": RNG.normal(size=(4, 16)).astype(np.float32)} for _ in range(4)]
    bench = trial_bench.ready(tmp_path / "m.onnx", samples, tmp_path)
    assert [node.op_type for node in bench.model.graph.node] == ["Gemm"]
    made = scheme_table.SCHEMES["static-heavy"].make(bench, ())
    assert closeness.compare(answers(tmp_path / "m.onnx", samples), answers(made, samples)).noise < 1e-3


def test_nodes_are_chosen_by_the_names_of_the_model_as_it_came(tmp_path: Path) -> None:
    """The search's own model has a Gemm for a product and its sum, under a name of its own."""
    shapes = {"w": (16, 8), "b": (8,), "v": (8, 8)}
    weights = [
        numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
            helper.make_node("Add", ["m", "b"], ["s"], name="sum"),
            helper.make_node("Relu", ["s"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    samples = [{"x": RNG.normal(size=(4, 16)).astype(np.float32)} for _ in range(4)]
    bench = trial_bench.ready(tmp_path / "m.onnx", samples, tmp_path)
    [gemm] = [node.name for node in bench.model.graph.node if node.op_type == "Gemm"]
    assert gemm not in ("product", "sum")
    for name in ("product", "sum"):
        assert bench.chosen([name], "nodes_to_exclude") == [name, gemm]
    assert bench.chosen(["second"], "nodes_to_exclude") == ["second"]
    with pytest.raises(ValueError, match=r"nodes_to_exclude names 'prodct', but the model has no node.*'product'"):
        bench.chosen(["prodct"], "nodes_to_exclude")
    made = scheme_table.SCHEMES["dynamic"].make(bench, bench.chosen(["product"], "nodes_to_exclude"))
    [quantized] = [node.name for node in made.graph.node if node.op_type == "MatMulInteger"]
    assert quantized.startswith("second")
    half = scheme_table.SCHEMES["float16"].make(bench, bench.chosen(["product", "sum"], "nodes_to_exclude"))
    assert next(tensor for tensor in half.graph.initializer if tensor.name == "w").data_type == TensorProto.FLOAT


@pytest.mark.parametrize("scheme", ["dynamic", "dynamic-channel", "dynamic-unsigned"])
def test_a_gemm_that_is_to_stay_float_does(tmp_path: Path, scheme: str) -> None:
    """ONNX Runtime's dynamic quantizer makes a MatMul and an Add of it first, under other names."""
    weights = [numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)
               for name, shape in {"w": (16, 8), "b": (8,), "v": (8, 8)}.items()]  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["m"], name="first"),
            helper.make_node("Relu", ["m"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    samples = [{"x": RNG.normal(size=(4, 16)).astype(np.float32)} for _ in range(4)]
    bench = trial_bench.ready(tmp_path / "m.onnx", samples, tmp_path)
    made = scheme_table.SCHEMES[scheme].make(bench, ["first"])
    assert sum(node.op_type == "MatMulInteger" for node in made.graph.node) == 1
    assert "first_MatMul" in {node.name for node in made.graph.node if node.op_type == "MatMul"}


# Measures: the same numbers as the verdict's


KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "embedding": ("nearest", (1, 24)),
    "logits": ("top-1", (1, 10)),
    "map": ("", (1, 1, 8, 8)),
    "one number": ("", (1, 1)),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.6])
def test_measures_are_those_of_the_verdict(name: str, noise: float) -> None:
    kind, shape = KINDS[name]
    draw = np.random.default_rng(5)
    reference = [{name: draw.normal(size=shape).astype(np.float32)} for _ in range(12)]
    reference[4][name] *= np.float32(1e-5)  # a quiet sample
    other = [{name: (one[name] + noise * draw.normal(size=shape)).astype(np.float32)} for one in reference]
    found, wanted = closeness.compare(reference, other), compare(reference, other)["outputs"][name]
    assert found.cosine == pytest.approx(wanted["cosine"], abs=1e-9)
    assert found.max_rel_range == pytest.approx(wanted["max_rel_range"], rel=1e-6, abs=1e-12)
    if noise:
        assert found.sqnr_db == pytest.approx(wanted["sqnr_db"], abs=1e-6)
    assert (wanted["agreement_kind"] or "") == kind
    assert found.agreement == (None if not kind else pytest.approx(wanted["agreement"]))
    assert not found.problems


def test_integers_agree_or_do_not() -> None:
    reference = [{"label": np.arange(10)}] * 2
    other = [{"label": np.arange(10)}, {"label": np.arange(10) // 5}]
    assert closeness.compare(reference, other).agreement == compare(reference, other)["outputs"]["label"]["agreement"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.full((1, 4), np.nan, np.float32), "NaN"),
        (np.zeros((1, 5), np.float32), "shape [1, 5] instead of [1, 4]"),
        (np.zeros((1, 4), np.float16), "float16 instead of float32"),
    ],
)
def test_what_no_number_says_is_a_problem_and_never_holds(value: Any, said: str) -> None:
    found = closeness.compare([{"y": np.ones((1, 4), np.float32)}], [{"y": value}])
    assert said in found.problems[0]
    assert closeness.excess(found, {"cosine": 0.5}, 0.1) == float("inf")
    assert closeness.violations(found, {}, 0.1)
    assert "missing" in closeness.compare([{"y": np.ones(3, np.float32)}], [{}]).problems[0]


def test_a_limit_is_held_with_a_margin_and_for_samples_that_were_not_seen() -> None:
    draw = np.random.default_rng(1)
    reference = [{"y": draw.normal(size=(1, 400)).astype(np.float32)} for _ in range(16)]
    other = [{"y": (one["y"] + 0.1 * draw.normal(size=(1, 400))).astype(np.float32)} for one in reference]
    found = closeness.compare(reference, other)
    assert found.cosine is not None and found.expected["cosine"] < found.cosine
    assert not closeness.violations(found, {"cosine": 0.99}, 0.1)
    tight = {"cosine": found.expected["cosine"] - 1e-5}
    assert not closeness.violations(found, tight, 0.0)
    [sentence] = closeness.violations(found, tight, 0.1)
    assert "on other samples" in sentence
    # A limit of nothing lets nothing through, and is no limit that is turned off.
    assert closeness.excess(found, {"max_rel_range": 0.0}, 0.1) == float("inf")
    assert closeness.excess(closeness.compare(reference, reference), {"max_rel_range": 0.0}, 0.1) == 0.0
    # Half the noise is about half the excess.
    half = [
        {"y": (one["y"] + two["y"] * 0.7071 - one["y"] * 0.7071)} for one, two in zip(reference, other, strict=True)
    ]
    quieter = [{"y": one["y"] + 0.70711 * (two["y"] - one["y"])} for one, two in zip(reference, other, strict=True)]
    assert half and closeness.excess(closeness.compare(reference, quieter), tight, 0.0) == pytest.approx(0.5, abs=0.01)


def test_errors_that_span_decades_foretell_little() -> None:
    sure = [{"scores": np.array([[1.0, 0.0, 1e-9]], np.float32)} for _ in range(16)]
    other = [{"scores": np.array([[1.0, 10.0 ** -(number / 2 + 1), 1e-9]], np.float32)} for number in range(16)]
    found = closeness.compare(sure, other)
    assert found.cosine is not None
    assert 1.0 - found.expected["cosine"] == pytest.approx(closeness.HEAVY * (1.0 - found.cosine), rel=1e-3)


def test_a_changed_choice_counts_by_what_a_task_may_lose() -> None:
    reference = [{"logits": np.eye(8, dtype=np.float32)[[number % 8]]} for number in range(32)]
    other = [dict(one) for one in reference]
    other[0] = {"logits": np.eye(8, dtype=np.float32)[[5]]}
    found = closeness.compare(reference, other)
    assert found.agreement == pytest.approx(31 / 32)
    assert not closeness.violations(found, {"agreement": 0.95}, 0.1)
    assert closeness.violations(found, {"agreement": 0.95, "task_drop": 0.01}, 0.1)


# Sensitivities


@pytest.mark.parametrize("scheme", ["dynamic-channel", "dynamic", "static-heavy", "static-channel"])
def test_the_simulation_answers_what_the_quantized_model_answers(
    bench: trial_bench.Bench, scheme: str, tmp_path: Path
) -> None:
    way, samples = scheme_table.SCHEMES[scheme], feeds(6, seed=9)
    made = way.make(bench, ())
    assert way.targets is not None
    targets = way.targets(bench, made)
    assert {"first", "second", "third"} <= set(targets)
    groups = [(name,) for name in targets]
    simulation = node_noise.Simulation(bench.model, targets, groups, samples, tmp_path)
    simulated = simulation.parity(range(len(groups))).noise
    real = closeness.compare(answers(bench.model, samples), answers(made, samples)).noise
    assert simulated == pytest.approx(real, rel=0.15)
    assert simulation.parity(()).noise == 0.0


def test_noise_of_single_nodes_adds_up_and_names_the_node_with_outliers(
    bench: trial_bench.Bench, tmp_path: Path
) -> None:
    targets = node_noise.dynamic_targets(bench.model, {"first", "second", "third"}, per_channel=True)
    groups = [("first",), ("second",), ("third",)]
    simulation = node_noise.Simulation(bench.model, targets, groups, feeds(6), tmp_path)
    noise = [simulation.noise(number) for number in range(3)]
    assert noise[1] == max(noise)
    assert sum(noise) == pytest.approx(simulation.parity(range(3)).noise, rel=0.15)


# Smoothing, and weights in blocks


def test_smoothing_changes_nothing_in_float_and_much_in_eight_bits(bench: trial_bench.Bench) -> None:
    model, moved = bench.smoothed()
    samples = feeds(6, seed=21)
    reference = answers(bench.model, samples)
    assert closeness.compare(reference, answers(model, samples)).noise < 1e-10
    assert "second" in {name for entry in moved for name in entry["nodes"]}
    plain = scheme_table.SCHEMES["dynamic-channel"].make(bench, ())
    smooth = scheme_table.SCHEMES["dynamic-smooth"].make(bench, ())
    noise = [closeness.compare(reference, answers(made, samples)).noise for made in (plain, smooth)]
    assert noise[1] < 0.5 * noise[0]


def test_what_was_smoothed_is_quantized_with_ranges_known_ahead_too(bench: trial_bench.Bench) -> None:
    made = scheme_table.SCHEMES["static-smooth"].make(bench, ())
    makers = {name: node.op_type for node in made.graph.node for name in node.output}
    products = [node for node in made.graph.node if node.op_type == "MatMul"]
    assert len(products) == 3
    for node in products:
        assert [makers[name] for name in node.input] == ["DequantizeLinear"] * 2, node.name
    samples = feeds(6, seed=21)
    reference = answers(bench.model, samples)
    plain = scheme_table.SCHEMES["static-heavy"].make(bench, ())
    noise = [closeness.compare(reference, answers(model, samples)).noise for model in (plain, made)]
    assert noise[1] < 0.5 * noise[0]


def test_nothing_is_moved_where_there_are_no_outliers(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.sign(RNG.normal(size=(64, 64))).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    even = [{"x": np.sign(one["x"]).astype(np.float32)} for one in feeds(4)]
    observed = smoothing.observe(model, even, tmp_path)
    assert smoothing.smoothed(model, observed, split=True)[1] == []


@pytest.mark.parametrize(("bits", "block"), [(8, 128), (4, 32)])
def test_weights_in_blocks_are_what_onnx_runtime_reads(bits: int, block: int) -> None:
    """A depth that is no multiple of the block, and both halves of a byte."""
    model = outlier_model()
    reference = outlier_model_with_rounded_weights(model, bits, block)
    changed = weight_blocks.to_blocks(model, ["first", "second", "third", "relu"], bits=bits, block=block)
    assert changed == ["first", "second", "third"]
    samples = feeds(3)
    # Allowed to round activations, kernels are quick and close; without that the product is exact.
    assert closeness.compare(answers(reference, samples), answers(model, samples)).noise < 0.01
    for node in model.graph.node:
        for attribute in node.attribute:
            attribute.i = 0 if attribute.name == "accuracy_level" else attribute.i
    assert closeness.compare(answers(reference, samples), answers(model, samples)).noise < 1e-9
    assert "w1" not in {tensor.name for tensor in model.graph.initializer}


def outlier_model_with_rounded_weights(model: onnx.ModelProto, bits: int, block: int) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name.startswith("w"):
            value = weight_blocks.rounded(numpy_helper.to_array(tensor), bits, block)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return made


# Choosing


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60), st.floats(0.0, 10.0))
def test_the_shortest_prefix_is_the_first_that_is_enough(values: list[float], limit: float) -> None:
    falling = sorted(values, reverse=True)
    found = candidate_choice.shortest_prefix(len(falling), lambda count: falling[count], limit)
    assert found == next((count for count, value in enumerate(falling) if value <= limit), len(falling))


def candidate(
    name: str, ratio: float, width: float = 0.02, size: int = 50, **fields: Any
) -> candidate_choice.Candidate:
    timed = pair_timing.Ratio(ratio, ratio - width, ratio + width, 30)
    return candidate_choice.Candidate(name, name, path=Path(name), ratio=timed, bytes=size, excess=0.5, **fields)


def test_the_fastest_ships_and_of_equals_the_smallest() -> None:
    ships = candidate_choice.ships
    fast, equal, slow = (
        candidate("fast", 2.0, size=60),
        candidate("equal", 1.97, size=20),
        candidate("slow", 1.4, size=10),
    )
    assert ships([fast, slow], 100) is fast
    assert ships([fast, equal, slow], 100) is equal


def test_what_is_tried_first_is_what_the_device_has_kernels_for(bench: trial_bench.Bench) -> None:
    def order(ep: str, **options: str) -> list[str]:
        found = [scheme.name for scheme in scheme_table.in_order(bench, f"{ep}ExecutionProvider", options)]
        assert sorted(found) == sorted(scheme_table.SCHEMES), "each of them once"
        return found

    assert order("CUDA")[0] == order("Dml")[0] == "float16"
    assert order("OpenVINO", device_type="GPU.1") == order("CUDA")
    assert order("OpenVINO", device_type="CPU") == order("OpenVINO") != order("CUDA")
    assert order("CPU") not in (order("CUDA"), order("OpenVINO"))


def test_without_a_faster_one_a_smaller_one_ships_if_it_is_as_fast() -> None:
    ships = candidate_choice.ships
    assert ships([], 100) is None
    half = candidate("half", 1.01)
    assert ships([half, candidate("slower", 0.7, size=10)], 100) is half
    assert ships([candidate("as large", 1.01, size=95)], 100) is None
    assert ships([candidate("within the noise", 0.985)], 100) is not None
    assert ships([candidate("surely slower, by less than counts", 0.984, width=0.01)], 100) is not None
    assert ships([candidate("a little slower", 0.965)], 100) is None
    assert ships([candidate("maybe", 1.3, width=0.5, size=95)], 100) is None


def test_with_nothing_to_gain_one_that_loads_faster_ships() -> None:
    ships = candidate_choice.ships
    twice, hardly = pair_timing.Ratio(2.0, 1.9, 2.1, 8), pair_timing.Ratio(1.03, 0.97, 1.1, 8)
    stored = candidate("optimized", 1.0, size=110, loading=twice)
    assert ships([stored], 100) is stored
    assert ships([stored, candidate("half", 1.0)], 100).name == "half"  # type: ignore[union-attr]
    assert ships([candidate("optimized", 1.0, size=110, loading=hardly)], 100) is None
    assert ships([candidate("optimized", 0.9, size=110, loading=twice)], 100) is None
    scattered = candidate("optimized", 1.0, size=110, loading=pair_timing.Ratio(1.365, 0.882, 1.486, 8))
    assert ships([scattered], 100) is scattered, "the few loads of a search are never sure"
    half = candidate("half", 0.976)
    assert ships([half, stored], 100) is stored, "measured again, the half may be slower"
    assert ships([half, candidate("optimized", 0.97, size=110, loading=twice)], 100) is half
    assert ships([half], 100) is half
    quickest = candidate("quickest", 1.0, size=110, loading=pair_timing.Ratio(3.0, 2.9, 3.1, 8))
    assert ships([stored, quickest], 100) is quickest


def test_the_final_is_between_those_that_hold() -> None:
    wrong = candidate("wrong", 3.0, fails=("cosine 0.1 against 0.9",))
    broken = candidate("broken", 3.0, problem="it crashed (SIGSEGV)")
    fine = [candidate(f"fine {number}", 1.2 + number / 10) for number in range(5)]
    small = candidate("small", 1.0, size=5)
    names = [one.name for one in candidate_choice.finalists([wrong, broken, *fine, small])]
    assert names == ["fine 4", "fine 3", "fine 2", "small"]


def test_a_glance_that_was_disturbed_does_not_keep_the_smallest_out_of_the_final() -> None:
    """The final, which looks longer, decides: here that it ships, or that it is slower after all."""
    disturbed = candidate("small", 0.6, width=0.35, size=5)
    assert candidate_choice.finalists([candidate("large", 1.0, size=99), disturbed])[-1] is disturbed
    assert candidate_choice.ships([candidate("small", 1.0, size=5)], 100) is not None
    assert candidate_choice.ships([disturbed], 100) is None
    assert disturbed not in candidate_choice.finalists([candidate("small", 0.6, size=5)])


def test_the_smallest_that_may_be_as_fast_does_not_take_the_place_of_one_that_seems_so() -> None:
    half, eight = candidate("half", 0.99, size=50), candidate("eight bits", 0.87, size=25)
    stored = candidate("optimized", 0.96, size=101, loads_faster=True)
    names = [one.name for one in candidate_choice.finalists([half, eight, stored])]
    assert names == ["half", "eight bits", "optimized"]
    assert candidate_choice.finalists([candidate("optimized", 0.8, size=101, loads_faster=True)]) == []


def test_nodes_that_share_a_weight_share_its_codes() -> None:
    weight = numpy_helper.from_array(RNG.normal(size=(64, 64)).astype(np.float32), "w")
    other = numpy_helper.from_array(RNG.normal(size=(64, 64)).astype(np.float32), "v")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
            helper.make_node("MatMul", ["a", "v"], ["b"], name="second"),
            helper.make_node("MatMul", ["b", "w"], ["y"], name="third"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 64])],
        [weight, other],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected = answers(model, feeds(2))
    assert weight_blocks.to_blocks(model, ["first", "second", "third"], bits=8, block=32) == [
        "first",
        "second",
        "third",
    ]
    assert len(model.graph.initializer) == 4  # codes and scales of two weights
    assert closeness.compare(expected, answers(model, feeds(2))).noise < 0.01


class Clockwork:
    """A model that takes the times it is given: what a ratio is made of, without a machine's moods."""

    first_run_s = 0.001

    def __init__(self, times: list[int]) -> None:
        self.times = times
        self.taken = 0

    def turn(self, iterations: int, start: int = 0, discard: int = 0) -> list[int]:
        self.taken += 1
        return [self.times[self.taken % len(self.times)]] * iterations


def test_a_ratio_is_of_undisturbed_times_and_its_interval_of_pairs() -> None:
    disturbed = [20_000_000, 20_000_000, 80_000_000, 20_000_000]
    trials: Any = [Clockwork([20_000_000]), Clockwork([10_000_000]), Clockwork(disturbed)]
    (twice, same), run_s = pair_timing.against_first(trials, 0.01)
    assert twice.ratio == 2.0 and twice.is_faster and not twice.is_slower
    assert same.ratio == 1.0 and not same.is_faster and not same.is_slower
    assert run_s == 0.02
    assert pair_timing.joined([twice, same]).low <= 1.0
