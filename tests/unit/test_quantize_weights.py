"""Weights in blocks of few bits: what each method and form does to real models, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import _pybind_state as native

from ortforge.api import PassUse

from .pass_jobs import cosine, helper_module, job_for, module, outputs, run_pass

Array = NDArray[Any]
WIDE, CLASSES, WORDS = 64, 4, 40


def texts(count: int, seed: int = 0) -> tuple[list[dict[str, Array]], Array]:
    """Twelve words each; the words of a text come from its class's quarter of the vocabulary more often than not."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    own = draw.integers(0, WORDS // CLASSES, (count, 12)) + labels[:, None] * (WORDS // CLASSES)
    other = draw.integers(0, WORDS, (count, 12))
    words = np.where(draw.random((count, 12)) < 0.6, own, other)
    return [{"words": row[None]} for row in words.astype(np.int64)], labels


@pytest.fixture(scope="module")
def classifier() -> onnx.ModelProto:
    """A text classifier: embeddings, a hidden layer, and a last layer that was fitted to 300 texts."""
    draw = np.random.default_rng(2)
    table, hidden = draw.normal(size=(WORDS, WIDE)), draw.normal(size=(WIDE, 96)) / 8
    hidden[:4] *= 6  # a few channels are larger than the others, as in trained models
    body = classifier_of(table, hidden, np.eye(96))
    feeds, labels = texts(300, seed=5)
    seen = np.concatenate([one["y"] for one in outputs(body, feeds)]).astype(np.float64)
    wanted = np.eye(CLASSES)[labels] * 2 - 1
    return classifier_of(table, hidden, np.linalg.solve(seen.T @ seen + 5 * np.eye(96), seen.T @ wanted))


def classifier_of(table: Array, hidden: Array, last: Array) -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in (("table", table), ("hidden", hidden), ("last", last))
    ]
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "words"], ["embedded"], name="embed"),
        node("ReduceMean", ["embedded"], ["mean"], name="mean", axes=[1], keepdims=0),
        node("MatMul", ["mean", "hidden"], ["h"], name="hidden_MatMul"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "last"], ["y"], name="last_MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "texts",
        [helper.make_tensor_value_info("words", TensorProto.INT64, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", last.shape[1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def accuracy(model: onnx.ModelProto | Path, feeds: list[dict[str, Array]], labels: Array) -> float:
    return float(np.mean([int(one["y"].argmax()) for one in outputs(model, feeds)] == labels))


@pytest.mark.parametrize(
    ("parameters", "least"),
    [
        ({}, 0.95),
        ({"method": "rtn"}, 0.95),
        ({"method": "hqq"}, 0.95),
        ({"method": "hqq", "float_zero_points": True}, 0.95),
        ({"method": "k-quant"}, 0.95),
        ({"method": "gptq"}, 0.95),
        ({"symmetric": True}, 0.9),
        ({"bits": 8}, 0.9995),
        ({"bits": 8, "accuracy_level": 1}, 0.9995),
        ({"bits": 2, "block_size": 16, "method": "k-quant"}, 0.3),
        ({"op_types": ["*"]}, 0.9),
        ({"op_types": ["Gather"], "bits": 8}, 0.9995),
        ({"op_types": ["Gather"], "symmetric": True}, 0.9),
        ({"format": "QDQ"}, 0.95),
        ({"format": "QDQ", "symmetric": True}, 0.9),
        ({"format": "QDQ", "bits": 8}, 0.9995),
    ],
    ids=str,
)
def test_a_text_classifier_keeps_its_answers(
    tmp_path: Path, classifier: onnx.ModelProto, parameters: dict[str, Any], least: float
) -> None:
    feeds, labels = texts(120, seed=8)
    calibration = texts(24, seed=3)[0] if parameters.get("method") == "gptq" else ()
    result, path = run_pass(tmp_path, "quantize-weights", classifier, calibration, **parameters)
    assert result["warnings"] == []
    assert result["nodes_rounded"] == {("*",): 3, ("Gather",): 1}.get(tuple(parameters.get("op_types", ())), 2)
    assert cosine(outputs(classifier, feeds), outputs(path, feeds)) >= least
    drop = accuracy(classifier, feeds, labels) - accuracy(path, feeds, labels)
    assert drop <= (0.25 if parameters.get("bits") == 2 else 0.03)


def test_the_operators_of_each_form(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    result, path = run_pass(tmp_path, "quantize-weights", classifier, op_types=["MatMul", "Gather"])
    assert result["quantized"] == {"GatherBlockQuantized": 1, "MatMulNBits": 2}
    model = onnx.load(path)
    assert model.ir_version == 10  # tensors of 4 bits came with it
    assert {node.name for node in model.graph.node} >= {"embed", "hidden_MatMul", "last_MatMul"}
    assert not {"table", "hidden", "last"} & {tensor.name for tensor in model.graph.initializer}

    result, path = run_pass(tmp_path, "quantize-weights", classifier, format="QDQ")
    assert result["quantized"] == {"DequantizeLinear": 2}
    assert result["opset"] == "17 -> 21"
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_chosen_nodes_alone(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    result, path = run_pass(tmp_path, "quantize-weights", classifier, nodes_to_exclude=["last_*"])
    assert result["nodes_rounded"] == 1
    assert result["left_float"] == {"MatMul": 1}
    _, other = run_pass(tmp_path, "quantize-weights", classifier, nodes_to_include=["hidden_MatMul"])
    assert path.read_bytes() == other.read_bytes()
    with pytest.raises(ValueError, match="Did you mean 'last_MatMul'"):
        run_pass(tmp_path, "quantize-weights", classifier, nodes_to_exclude=["last_Matmul"])


def test_a_weight_that_two_products_share_is_stored_once(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="two"),
    ]
    for form in ("QOperator", "QDQ"):
        model = product_model(nodes, weight)
        _, path = run_pass(tmp_path, "quantize-weights", model, bits=8, format=form)
        made = onnx.load(path)
        assert len([tensor for tensor in made.graph.initializer if tensor.dims[0] == 32 and len(tensor.dims) > 1]) <= 3
        feed = [{"x": np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)}]
        assert cosine(outputs(model, feed), outputs(path, feed)) > 0.9995


def product_model(nodes: list[onnx.NodeProto], weight: Array, name: str = "w") -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(weight, name)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_weight_inside_a_branch(tmp_path: Path) -> None:
    """Weights in the branches of an If are rounded where they stand."""
    weight = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    value = helper.make_tensor_value_info
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["x", f"w_{name}"], [f"{name}_y"], name=f"{name}_MatMul")],
            name,
            [],
            [value(f"{name}_y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weight * factor, f"w_{name}")],
        )
        for name, factor in (("then", 1), ("else", -1))
    }
    node = helper.make_node(
        "If", ["positive"], ["y"], name="if", then_branch=branches["then"], else_branch=branches["else"]
    )
    graph = helper.make_graph(
        [node],
        "branches",
        [value("x", TensorProto.FLOAT, ["n", 48]), value("positive", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result, path = run_pass(tmp_path, "quantize-weights", model, bits=8)
    assert result["quantized"] == {"MatMulNBits": 2}
    x = np.random.default_rng(1).normal(size=(3, 48)).astype(np.float32)
    feeds = [{"x": x, "positive": np.array(flag)} for flag in (True, False)]
    assert cosine(outputs(model, feeds), outputs(path, feeds)) > 0.9995


# The methods


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("depth", [96, 90])
def test_default_is_what_onnx_runtimes_own_quantizer_makes(bits: int, symmetric: bool, depth: int) -> None:
    rounding = helper_module("_blocks.rounding")
    weight = np.random.default_rng(bits).normal(size=(depth, 24)).astype(np.float32)
    blocks = rounding.round_blocks(weight.T, bits=bits, block=32, method="default", symmetric=symmetric)
    per_byte = 8 // bits
    packed = np.zeros((24, 3, 32 // per_byte), np.uint8)
    scales = np.zeros((24, 3), np.float32)
    zero_points = np.zeros((24, -(-3 // per_byte)), np.uint8)
    padded = np.pad(weight, ((0, -depth % 32), (0, 0)))
    quantize = getattr(native, f"quantize_matmul_{bits}bits")
    quantize(packed, padded, scales, zero_points, 32, 24, depth, symmetric)
    mine = rounding.joined(blocks.codes, bits)
    np.testing.assert_allclose(blocks.scales, scales, rtol=1e-6)
    # What lies half way between two codes may go either way.
    assert np.mean(mine[:, :2] != packed[:, :2]) < 0.01


def test_each_method_does_better_than_rounding_to_nearest_by_its_own_measure() -> None:
    rounding = helper_module("_blocks.rounding")
    weight = np.random.default_rng(0).standard_t(4, size=(64, 256)).astype(np.float32)

    def errors(method: str, **more: Any) -> Array:
        blocks = rounding.round_blocks(weight, bits=4, block=32, method=method, symmetric=False, **more)
        return (blocks.values() - weight).astype(np.float64)

    nearest = errors("rtn")
    importance = np.abs(weight) + np.sqrt(np.square(weight.reshape(64, 8, 32)).mean(axis=2)).repeat(32, axis=1)
    assert (importance * errors("k-quant") ** 2).sum() < 0.97 * (importance * nearest**2).sum()
    for hqq in (errors("hqq"), errors("hqq", float_zero_points=True)):
        assert (np.abs(hqq) ** 0.7).sum() < 0.99 * (np.abs(nearest) ** 0.7).sum()


def test_gptq_answers_closer_than_rounding_where_inputs_are_correlated() -> None:
    gptq, rounding = helper_module("_blocks.gptq"), helper_module("_blocks.rounding")
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(90, 40))
    x = draw.normal(size=(600, 20)) @ draw.normal(size=(20, 90)) + 0.1 * draw.normal(size=(600, 90))
    solved = gptq.rounded(weight, x.T @ x, bits=4, block=32, symmetric=False, damping=0.01)
    nearest = rounding.round_blocks(weight.T, bits=4, block=32, method="default", symmetric=False)
    loss = [float(np.square(x @ (blocks.values().T - weight)).sum()) for blocks in (solved, nearest)]
    assert loss[0] < 0.35 * loss[1]


def test_gptq_is_the_algorithm_of_its_paper() -> None:
    """Against the plain form: after each channel the rest is solved for anew by least squares."""
    gptq = helper_module("_blocks.gptq")
    draw = np.random.default_rng(3)
    weight, x = draw.normal(size=(16, 5)), draw.normal(size=(60, 16))
    hessian = x.T @ x
    solved = gptq.rounded(weight, hessian, bits=4, block=16, symmetric=False, damping=1e-9)
    left = weight.copy()
    for place in range(16):
        scale, zero = solved.scales[:, 0], solved.zero_points[:, 0].astype(np.float64)
        fixed = (np.clip(np.rint(left[place] / scale + zero), 0, 15) - zero) * scale
        rest = slice(place + 1, None)
        left[rest] -= np.linalg.solve(
            hessian[rest, rest], hessian[rest, place : place + 1] @ (fixed - left[place])[None]
        )
        left[place] = fixed
    np.testing.assert_allclose(solved.values().T, left, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_blocks_of_one_sign_keep_their_size(sign: int) -> None:
    # Whole zero points lie among the codes, so zero lies in the range: without it, such a block came out near zero.
    rounding = helper_module("_blocks.rounding")
    weight = (sign * (5 + np.random.default_rng(0).normal(size=(4, 64)) * 0.1)).astype(np.float32)
    for method in rounding.METHODS:
        blocks = rounding.round_blocks(weight, bits=4, block=32, method=method, symmetric=False)
        np.testing.assert_allclose(blocks.values(), weight, atol=5.4 / 15, err_msg=method)
    floats = rounding.round_blocks(weight, bits=4, block=32, method="hqq", symmetric=False, float_zero_points=True)
    np.testing.assert_allclose(floats.values(), weight, atol=0.05)


def test_blocks_that_are_all_zero_or_all_equal() -> None:
    rounding = helper_module("_blocks.rounding")
    weight = np.zeros((3, 32), np.float32)
    weight[1], weight[2] = 0.7, -0.3
    for method in ("default", "rtn", "hqq", "k-quant"):
        for floats in {False, method == "hqq"}:
            blocks = rounding.round_blocks(
                weight, bits=4, block=16, method=method, symmetric=False, float_zero_points=floats
            )
            np.testing.assert_allclose(blocks.values(), weight, atol=1e-6, err_msg=f"{method} {floats}")


# What is refused, and what is said


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"bits": 3}, "not 2, 4 or 8"),
        ({"block_size": 48}, "no power of two from 16 on, which the kernels need; try 32"),
        ({"block_size": 8}, "try 16"),
        ({"accuracy_level": 5}, "accuracy_level = 5"),
        ({"method": "hqq", "symmetric": True}, "chooses zero points"),
        ({"float_zero_points": True}, "method = 'hqq'"),
        ({"damping": 0.0}, "damping"),
        ({"damping": 0.05}, "damping steadies gptq, and method is 'default'"),
        ({"op_types": ("Gather",), "accuracy_level": 0}, "accuracy_level is for products"),
        ({"format": "QDQ", "accuracy_level": 1}, "session.qdq_matmulnbits_accuracy_level"),
        ({"format": "QDQ", "op_types": ("Gather",)}, "no QDQ format"),
        ({"format": "QDQ", "op_types": ("*",)}, "no QDQ format"),
        ({"op_types": ("Conv",)}, "MatMul and Gather"),
        ({"op_types": ()}, "op_types is empty"),
        ({"method": "gptq"}, "k-quant, which needs none"),
    ],
    ids=str,
)
def test_contradictions_are_said_before_anything_runs(parameters: dict[str, Any], said: str) -> None:
    assert said in objection(parameters)


def objection(parameters: dict[str, Any], **more: Any) -> str:
    plugin = module("quantize_weights")
    known = next(iter(plugin.ortforge_passes()))
    use = {"before": (), "ort_version": "1.32.0", "ep": "cpu", "has_calibration": False, **more}
    said: str = known.objection(PassUse(plugin.Parameters(**parameters), **use))
    return said


def test_what_the_plan_knows() -> None:
    assert objection({}) == ""
    assert "1.21.1 has no kernel for 8-bit" in objection({"bits": 8}, ort_version="1.21.1")
    assert "1.23.2 has no kernel for 2-bit" in objection({"bits": 2}, ort_version="1.23.2")
    assert objection({"bits": 8}, ort_version="") == ""
    assert objection({"bits": 8, "format": "QDQ"}, ort_version="1.21.1") == ""  # ONNX's own operator has them
    assert objection({"method": "gptq"}, has_calibration=True) == ""


def test_a_block_longer_than_any_weight_is_refused(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    # MiniLM's 90 MB became 727 MB.
    with pytest.raises(ValueError, match=r"block_size = 65536 is more than any chosen weight is long \(\d+\)") as said:
        run_pass(tmp_path, "quantize-weights", classifier, block_size=65536)
    most = int(str(said.value).rsplit(" ", 1)[1].rstrip("."))
    result, _ = run_pass(tmp_path, "quantize-weights", classifier, block_size=most)
    assert result["bytes_after"] < result["bytes_before"]


def test_only_gptq_is_given_samples() -> None:
    plugin = module("quantize_weights")
    known = next(iter(plugin.ortforge_passes()))
    assert known.calibrates(plugin.Parameters(method="gptq"), True)
    assert not known.calibrates(plugin.Parameters(), True)
    assert known.requires == ()  # no torch, no onnx_ir


def test_gptq_without_samples_and_with_ones_that_do_not_fit(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    with pytest.raises(ValueError, match="no calibration samples"):
        run_pass(tmp_path, "quantize-weights", classifier, method="gptq")
    with pytest.raises(ValueError, match="lacks the model's input words"):
        run_pass(tmp_path, "quantize-weights", classifier, [{"tokens": np.zeros((1, 12), np.int64)}], method="gptq")
    with pytest.raises(RuntimeError, match="does not run on calibration sample 1 of 1"):
        run_pass(tmp_path, "quantize-weights", classifier, [{"words": np.full((1, 12), 999)}], method="gptq")


def test_a_model_without_weights_to_round_is_copied_and_says_so(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    gemm = product_model([helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm")], weight)
    result, path = run_pass(tmp_path, "quantize-weights", gemm)
    assert result["warnings"][0].startswith("NO-OP: nothing was quantized; no MatMul")
    assert "Its weights are in Gemm: use quantize-dynamic" in result["warnings"][0]
    assert onnx.load(path) == gemm


def test_embeddings_alone_are_pointed_at(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    table = onnx.ModelProto()
    table.CopyFrom(classifier)
    del table.graph.node[2:]
    del table.graph.initializer[1:]
    table.graph.output[0].name = "mean"
    result, _ = run_pass(tmp_path, "quantize-weights", table)
    assert "op_types = ['MatMul', 'Gather']" in result["warnings"][0]


def test_half_precision_and_quantized_models_are_refused(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float16)
    half = product_model([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], weight)
    with pytest.raises(ValueError, match="half precision: scales are taken from float32"):
        run_pass(tmp_path, "quantize-weights", half)
    _, path = run_pass(tmp_path, "quantize-weights", classifier)
    with pytest.raises(ValueError, match=r"quantized already \(2 MatMulNBits\)"):
        run_pass(tmp_path, "quantize-weights", path)


def test_a_weight_that_the_caller_may_replace_is_no_constant(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    model = product_model([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], weight)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 4]))
    result, _ = run_pass(tmp_path, "quantize-weights", model)
    assert result["warnings"][0].startswith("NO-OP")


def test_a_kernel_that_is_missing_is_found_by_running_it() -> None:
    """8-bit kernels have whole zero points alone, in every version so far."""
    kernels, plugin = helper_module("_blocks.block_kernels"), module("quantize_weights")
    wanted = plugin.Parameters(bits=8, method="hqq", float_zero_points=True)
    with pytest.raises(NotImplementedError, match="does not run 8-bit weights of MatMul in blocks of 32"):
        kernels.refuse("MatMul", wanted, "1.32.0")
    kernels.refuse("MatMul", plugin.Parameters(bits=4, method="hqq", float_zero_points=True), "1.32.0")


def test_the_weights_that_lose_most_are_named(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    result, _ = run_pass(tmp_path, "quantize-weights", classifier, bits=2)
    least = result["weight_sqnr_db"]["least"]
    assert set(least) == {"hidden_MatMul", "last_MatMul"}
    assert list(least.values()) == sorted(least.values())
    assert 0 < result["weight_sqnr_db"]["mean"] < 15


def test_a_model_with_external_data(tmp_path: Path, classifier: onnx.ModelProto) -> None:
    folder = tmp_path / "external"
    folder.mkdir()
    copied = onnx.ModelProto()
    copied.CopyFrom(classifier)
    onnx.save(copied, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    job = job_for(tmp_path / "job", folder / "m.onnx", None, {})
    result = module("quantize_weights").apply(job)
    assert result["bytes_after"] < result["bytes_before"]
    feeds, _ = texts(5)
    assert cosine(outputs(classifier, feeds), outputs(job.output, feeds)) > 0.95
