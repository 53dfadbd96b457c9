"""What each pass does to small real models, run by the ONNX Runtime that is installed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortforge.api import PassUse
from ortforge.plan import stamp as stamps
from ortforge.worker.apply import PassJob
from ortforge.worker.module import load_module
from ortforge.worker.samples import Samples, SampleWriter

FOLDER = Path(__file__).parents[2] / "plugins" / "passes"
PASSES = {
    "optimize": "optimize",
    "transformer-optimizer": "transformer_optimizer",
    "preprocess": "preprocess",
    "quantize-dynamic": "quantize_dynamic",
    "quantize-static": "quantize_static",
    "float16": "to_float16",
}
RNG = np.random.default_rng(7)


def job_for(
    folder: Path,
    model: Path,
    samples: list[dict[str, Any]] | None = None,
    parameters: dict[str, Any] | None = None,
    ep: str = "cpu",
    ep_name: str = "CPUExecutionProvider",
) -> PassJob:
    """The worker's own job object, on real folders below ``folder``."""
    for part in ("work", "out"):
        (folder / part).mkdir(parents=True)
    kept = None
    if samples:
        writer = SampleWriter(folder / "samples")
        for sample in samples:
            writer.write(sample)
        writer.close(random=False, source="test")
        kept = Samples(folder / "samples")
    return PassJob(
        model=model,
        output=folder / "out" / "model.onnx",
        parameters=parameters or {},
        samples=tuple(kept.paths) if kept else (),
        folder=kept.folder if kept else None,
        ep=ep,
        ep_name=ep_name,
        ep_options={},
        ort_version=ort.__version__,
        cpu_flags=("avx2", "fpu"),
        workdir=folder / "work",
    )


@pytest.fixture(scope="session")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The passes as a runtime's worker loads them: by path."""
    before = list(sys.path)
    yield {name: load_module(FOLDER / f"{stem}.py", "apply") for name, stem in PASSES.items()}
    sys.path[:] = before


Run = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def run(modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a pass on a model; give its result and the file it wrote."""
    monkeypatch.chdir(tmp_path)  # a worker has a folder of its own, in which ONNX Runtime may leave files
    count = 0

    def run_pass(
        name: str, model: onnx.ModelProto | Path, samples: list[dict[str, Any]] | None = None, **parameters: Any
    ) -> Any:
        nonlocal count
        count += 1
        folder = tmp_path / f"{count}-{name}"
        folder.mkdir()
        source = model if isinstance(model, Path) else folder / "in.onnx"
        if not isinstance(model, Path):
            onnx.save(model, source)
        job = job_for(folder, source, samples, parameters)
        result = modules[name].apply(job)
        json.dumps(result)
        return result, job.output.parent / result.get("file", "model.onnx")

    return run_pass


def weight(name: str, *shape: int, scale: float = 0.3) -> TensorProto:
    return numpy_helper.from_array((RNG.normal(size=shape) * scale).astype(np.float32), name)


def constant(name: str, *shape: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=weight(name, *shape))


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: list[TensorProto] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    def values(named: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in named.items()]

    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), weights or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model)
    return model


def mlp(*, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    return model_of(
        nodes,
        {"x": ["n", 16]},
        {"y": ["n", 4]},
        [weight("w1", 16, 32), weight("w2", 32, 4)],
        opset=opset,
        ir_version=ir_version,
    )


def conv_with_constants(*, opset: int = 11, ir_version: int = 7) -> onnx.ModelProto:
    """A CNN as PaddlePaddle writes them: every weight a Constant node, opset 11, nodes without names."""
    nodes = [
        constant("w1", 8, 3, 3, 3),
        helper.make_node("Conv", ["x", "w1"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        constant("w2", 4, 8, 3, 3),
        helper.make_node("Conv", ["b", "w2"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    return model_of(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 4, 1, 1]}, opset=opset, ir_version=ir_version)


def branches() -> onnx.ModelProto:
    """Weights in Constant nodes inside the branches of an If, as silero VAD has them: one LSTM, one MatMul."""
    lstm = helper.make_graph(
        [
            constant("w", 1, 32, 8),
            constant("r", 1, 32, 8),
            helper.make_node("LSTM", ["x", "w", "r"], ["seq", "last"], hidden_size=8),
            helper.make_node("Identity", ["last"], ["then_out"]),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("then_out", TensorProto.FLOAT, [1, 1, 8])],
    )
    matmul = helper.make_graph(
        [
            constant("m", 8, 8),
            helper.make_node("MatMul", ["x", "m"], ["prod"]),
            helper.make_node("ReduceMax", ["prod"], ["else_out"], axes=[0], keepdims=1),
        ],
        "else",
        [],
        [helper.make_tensor_value_info("else_out", TensorProto.FLOAT, [1, 1, 8])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=lstm, else_branch=matmul),
    ]
    return model_of(nodes, {"x": [5, 1, 8]}, {"y": [1, 1, 8]}, opset=16)


def masked(value: float = -3.4e38) -> onnx.ModelProto:
    """Scores with a mask added before Softmax, as exported attention has it."""
    mask = np.zeros((1, 8), np.float32)
    mask[0, 6:] = value
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], name="scores"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="mask_add"),
        helper.make_node("Softmax", ["masked"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "v"], ["y"], name="values"),
    ]
    weights = [weight("w", 16, 8), weight("v", 8, 4), numpy_helper.from_array(mask, "mask")]
    return model_of(nodes, {"x": [4, 16]}, {"y": [4, 4]}, weights)


def attention(heads: int = 2, hidden: int = 8, length: int = 4) -> onnx.ModelProto:
    """One layer of BERT as torch's TorchScript exporter writes it with eager attention."""
    weights = [weight(f"w_{x}", hidden, hidden) for x in "qkvo"] + [weight(f"b_{x}", hidden) for x in "qkvo"]
    weights += [weight("gamma", hidden), weight("beta", hidden)]
    size = hidden // heads
    ints = {"split": [0, 0, heads, size], "merge": [0, 0, hidden]}
    weights += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in ints.items()]
    floats = {"root": np.sqrt(size), "one": 1.0, "minus": -10000.0}
    weights += [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in floats.items()]
    weights += [numpy_helper.from_array(np.array([axis], np.int64), f"axis{axis}") for axis in (1, 2)]
    node = helper.make_node
    nodes = [
        node("LayerNormalization", ["x", "gamma", "beta"], ["h"], axis=-1, name="norm_in"),
        node("Unsqueeze", ["mask", "axis1"], ["m1"]),
        node("Unsqueeze", ["m1", "axis2"], ["m2"]),
        node("Cast", ["m2"], ["mf"], to=TensorProto.FLOAT),
        node("Sub", ["one", "mf"], ["ms"]),
        node("Mul", ["ms", "minus"], ["bias"]),
    ]
    for x in "qkv":
        nodes += [
            node("MatMul", ["h", f"w_{x}"], [f"{x}_m"]),
            node("Add", [f"b_{x}", f"{x}_m"], [f"{x}_a"]),
            node("Reshape", [f"{x}_a", "split"], [f"{x}_s"]),
            node("Transpose", [f"{x}_s"], [f"{x}_t"], perm=[0, 2, 3, 1] if x == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", ["q_t", "k_t"], ["qk"]),
        node("Div", ["qk", "root"], ["qk_d"]),
        node("Add", ["qk_d", "bias"], ["qk_b"]),
        node("Softmax", ["qk_b"], ["p"], axis=-1),
        node("MatMul", ["p", "v_t"], ["pv"]),
        node("Transpose", ["pv"], ["pv_t"], perm=[0, 2, 1, 3]),
        node("Reshape", ["pv_t", "merge"], ["ctx"]),
        node("MatMul", ["ctx", "w_o"], ["o_m"]),
        node("Add", ["b_o", "o_m"], ["o_a"]),
        node("Add", ["o_a", "h"], ["res"]),
        node("LayerNormalization", ["res", "gamma", "beta"], ["y"], axis=-1, name="norm_out"),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, length, hidden]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, [1, length]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, length, hidden])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "pytorch"
    return model


def outputs(model: onnx.ModelProto | Path, feed: dict[str, Any]) -> list[Any]:
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def cosine(left: onnx.ModelProto | Path, right: onnx.ModelProto | Path, feed: dict[str, Any]) -> float:
    a, b = (np.concatenate([np.ravel(x) for x in outputs(m, feed)]).astype(np.float64) for m in (left, right))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def normal(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


# The contract


def test_each_file_is_a_plugin_whose_other_half_loads_without_ortforge(modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        (offered,) = module.ortforge_passes()
        assert offered.name == name
        assert Path(offered.module) == FOLDER / f"{PASSES[name]}.py"
        assert callable(module.apply)
        offered.parameters(**(offered.example or {}))


def test_listing_the_passes_imports_neither_onnx_nor_numpy_nor_a_runtime() -> None:
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "for stem in sys.argv[2:]: importlib.import_module('plugins.passes.' + stem)\n"
        "print({'onnx', 'numpy', 'onnxruntime', 'ortforge'} & set(sys.modules))"
    )
    root = str(FOLDER.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, root, *PASSES.values()], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_no_file_hides_a_module_that_onnxruntime_imports_by_its_bare_name() -> None:
    # onnxruntime.transformers puts its folder on the module path and imports "float16", "optimizer" … from there.
    theirs = {path.stem for path in (Path(ort.__file__).parent / "transformers").glob("*.py")} - {"__init__"}
    assert theirs
    assert not theirs & {path.stem for path in FOLDER.glob("*.py")}


def test_every_parameter_has_a_sentence(modules: dict[str, ModuleType]) -> None:
    for module in modules.values():
        for one in dataclasses.fields(module.Parameters):
            assert one.metadata["doc"], one.name


@pytest.mark.parametrize(
    ("name", "parameters", "use", "says"),
    [
        ("quantize-static", {}, {"has_calibration": False}, "calibration"),
        ("quantize-static", {"activation_type": "QInt8", "weight_type": "QUInt8"}, {}, "QInt8"),
        ("quantize-static", {"format": "QOperator", "activation_type": "QUInt16"}, {}, "QDQ"),
        ("quantize-static", {"calibrate_method": "Distribution"}, {}, "8-bit floats"),
        ("float16", {"mask_value": 1e6}, {}, "65504"),
        ("optimize", {"level": "layout"}, {"ort_version": "1.21.1"}, "'all'"),
        ("transformer-optimizer", {"num_heads": 12}, {}, "go together"),
        ("transformer-optimizer", {"num_heads": 12, "hidden_size": 100}, {}, "multiple"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(
    modules: dict[str, ModuleType], name: str, parameters: dict[str, Any], use: dict[str, Any], says: str
) -> None:
    (offered,) = modules[name].ortforge_passes()
    facts = {"before": (), "ort_version": "1.32.0", "ep": "cpu", "has_calibration": True, **use}
    assert says in offered.objection(PassUse(parameters=offered.parameters(**parameters), **facts))
    assert offered.objection(PassUse(offered.parameters(), (), "1.32.0", "cpu", True)) == ""


@pytest.mark.parametrize("name", PASSES)
def test_a_truncated_model_is_a_plain_sentence(run: Run, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(mlp().SerializeToString()[:-300])
    with pytest.raises(ValueError, match="cannot be read as an ONNX model"):
        run(name, broken, [{"x": normal(1, 16)}])


# optimize and its stamp


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_optimize_keeps_the_values_and_stamps_the_file(run: Run, level: str) -> None:
    model = conv_with_constants()
    result, path = run("optimize", model, level=level)
    stamp = {"ort_version": ort.__version__, "ep": "cpu", "level": level, "cpu_flags": ["avx2"]}
    assert result["stamp"] == stamp
    saved = onnx.load(path)
    assert json.loads({entry.key: entry.value for entry in saved.metadata_props}["ortforge.stamp"]) == stamp
    assert (saved.ir_version, saved.opset_import[0].version) == (7, 11)
    assert result["removed"]["Constant"] == 2
    assert cosine(model, path, {"x": normal(1, 3, 12, 12)}) > 0.999999


def test_optimize_to_ort_format_names_its_file_and_warns_of_a_low_level(run: Run) -> None:
    result, path = run("optimize", conv_with_constants(), level="basic", format="ort")
    assert path.name == "model.ort"
    assert outputs(path, {"x": normal(1, 3, 12, 12)})[0].shape == (1, 4, 1, 1)
    assert "level = 'all'" in result["warnings"][0]
    with pytest.raises(ValueError, match="last in the recipe"):
        run("quantize-dynamic", path)


def test_optimize_names_the_eps_that_are_there(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "in.onnx")
    job = job_for(tmp_path / "job", tmp_path / "in.onnx", ep="tpu", ep_name="TpuExecutionProvider")
    with pytest.raises(NotImplementedError, match=r"no TpuExecutionProvider; it has .*CPUExecutionProvider"):
        modules["optimize"].apply(job)


def test_the_stamp_and_the_pass_agree_on_which_cpu_features_matter(modules: dict[str, ModuleType]) -> None:
    assert modules["optimize"].ort_graph.MATTERING_CPU_FLAGS == stamps.MATTERING_CPU_FLAGS
    assert modules["optimize"].ort_graph.LEVELS == stamps.LEVELS
    assert modules["optimize"].ort_graph.STAMP_KEY == stamps.KEY


HERE = {"ort_version": "1.32.0", "ep": "cpu", "cpu_flags": ["avx2", "avx512f", "fpu", "sse2"]}


@pytest.mark.parametrize(
    ("level", "change", "says"),
    [
        ("basic", {"ep": "cuda", "ort_version": "1.21.1", "cpu_flags": []}, ""),
        ("extended", {"ort_version": "1.32.4", "cpu_flags": []}, ""),
        ("extended", {"ort_version": "1.33.0", "cpu_flags": []}, ""),
        ("extended", {"ort_version": "1.21.1"}, "the older 1.21.1"),
        ("extended", {"ep": "cuda"}, "for the EP cpu"),
        ("layout", {}, ""),
        ("all", {"cpu_flags": ["avx512f", "avx2", "another"]}, ""),
        ("all", {"ep": "cuda"}, "for the EP cpu"),
        ("all", {"ort_version": "1.32.1"}, "this runtime is 1.32.1"),
        ("layout", {"cpu_flags": ["avx2"]}, "this CPU lacks avx512f"),
        ("all", {"cpu_flags": ["avx2", "avx512f", "avx512_vnni"]}, "has avx512_vnni besides"),
        ("everything", {}, "'everything', which is none of basic, extended, layout, all"),
    ],
)
def test_a_stamp_holds_only_under_the_conditions_of_its_level(level: str, change: dict[str, Any], says: str) -> None:
    stamp = {"ort_version": "1.32.0", "ep": "cpu", "level": level, "cpu_flags": ["avx2", "avx512f"]}
    why = stamps.broken(stamp, **{**HERE, **change})
    assert (says in why) if says else why == ""


# preprocess


def test_preprocess_folds_constants_names_nodes_and_keeps_versions(run: Run) -> None:
    pytest.importorskip("sympy")
    model = conv_with_constants()
    result, path = run("preprocess", model)
    saved = onnx.load(path)
    assert result["removed"]["Constant"] == 2
    assert all(node.name for node in saved.graph.node)
    assert (saved.ir_version, saved.opset_import[0].version) == (7, 11)
    assert "opset" not in result
    assert cosine(model, path, {"x": normal(1, 3, 12, 12)}) > 0.999999


def test_preprocess_says_which_step_it_left_out_and_does_the_rest(run: Run) -> None:
    # PaddlePaddle writes a free dimension as -1; symbolic inference stops where such a shape is computed with.
    numbers = {"from": [0], "to": [1], "rest": [-1]}
    model = model_of(
        [
            constant("w", 8),
            helper.make_node("Mul", ["x", "w"], ["scaled"]),
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Slice", ["shape", "from", "to"], ["batch"]),
            helper.make_node("Concat", ["batch", "rest"], ["flat"], axis=0),
            helper.make_node("Reshape", ["scaled", "flat"], ["y"]),
        ],
        {"x": ["n", 4, 8]},
        {"y": ["n", "m"]},
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in numbers.items()],
    )
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    result, path = run("preprocess", model)
    assert list(result["skipped"]) == ["symbolic shape inference"]
    assert result["warnings"][0].startswith("Skipped symbolic shape inference: ")
    assert "Constant" not in [node.op_type for node in onnx.load(path).graph.node]
    assert cosine(model, path, {"x": normal(2, 4, 8)}) > 0.999999


# quantize-dynamic


@pytest.mark.parametrize("weight_type", ["QInt8", "QUInt8"])
def test_dynamic_quantization_says_what_changed(run: Run, weight_type: str) -> None:
    model = mlp()
    result, path = run("quantize-dynamic", model, weight_type=weight_type)
    assert result["quantized"]["MatMulInteger"] == 2
    assert result["replaced"] == {"MatMul": 2}
    assert result["bytes_after"] < result["bytes_before"]
    assert result["warnings"] == []
    assert onnx.load(path).ir_version == 8
    assert cosine(model, path, {"x": normal(3, 16)}) > 0.99


def test_weights_in_constant_nodes_are_found(run: Run) -> None:
    result, path = run("quantize-dynamic", conv_with_constants(), weight_type="QUInt8")
    assert result["constants_to_initializers"] == 2
    assert result["quantized"]["ConvInteger"] == 2
    assert onnx.load(path).ir_version == 7


def test_nothing_to_quantize_is_said_and_the_file_is_the_same_byte_for_byte(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    nodes = [constant("w", 16, 4), helper.make_node("MatMul", ["x", "w"], ["y"])]
    onnx.save(model_of(nodes, {"x": [1, 16]}, {"y": [1, 4]}), model)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"constants_to_initializers": False}, "constants_to_initializers = true"),
        ({"op_types": ["LSTM"]}, "has no LSTM"),
    ]
    for parameters, hint in cases:
        result, path = run("quantize-dynamic", model, **parameters)
        assert result["warnings"][0].startswith("NO-OP")
        assert hint in result["warnings"][0]
        assert path.read_bytes() == model.read_bytes()


def test_weights_inside_branches_are_left_alone_until_asked_for(run: Run) -> None:
    model = branches()
    result, _ = run("quantize-dynamic", model)
    assert "subgraphs = true" in result["warnings"][0]
    result, path = run("quantize-dynamic", model, subgraphs=True)
    assert result["quantized"]["DynamicQuantizeLSTM"] == 1
    assert result["quantized"]["MatMulInteger"] == 1
    for sign in (1, -1):
        assert cosine(model, path, {"x": sign * np.abs(normal(5, 1, 8))}) > 0.98


def test_per_channel_raises_an_old_opset_and_says_so(run: Run) -> None:
    model = mlp(opset=11, ir_version=6)
    result, path = run("quantize-dynamic", model, per_channel=True)
    assert result["opset"] == "11 -> 13"
    assert onnx.load(path).ir_version == 6
    assert cosine(model, path, {"x": normal(3, 16)}) > 0.99


def test_a_model_so_old_that_weights_are_inputs_is_raised(run: Run) -> None:
    model = mlp(opset=9, ir_version=4)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims))
        for tensor in model.graph.initializer
    )
    result, path = run("quantize-dynamic", model)
    assert result["quantized"]["MatMulInteger"] == 2
    assert (result["ir_version"], result["opset"]) == ("3 -> 8", "9 -> 11")
    assert [value.name for value in onnx.load(path).graph.input] == ["x"]


def test_excluded_nodes_stay_float_and_a_wrong_name_is_answered_with_the_nearest(run: Run) -> None:
    result, _ = run("quantize-dynamic", mlp(), nodes_to_exclude=["second"])
    assert result["left_float"] == {"MatMul": 1}
    with pytest.raises(ValueError, match="Did you mean 'second'"):
        run("quantize-dynamic", mlp(), nodes_to_exclude=["secnod"])
    with pytest.raises(ValueError, match="put preprocess first"):
        run("quantize-dynamic", conv_with_constants(), nodes_to_exclude=["Conv_0"])


@pytest.mark.parametrize(("parameter", "left"), [("nodes_to_exclude", "second_MatMul"), ("nodes_to_include", "first")])
def test_a_gemm_is_chosen_by_its_name_though_it_is_taken_apart_first(run: Run, parameter: str, left: str) -> None:
    model = mlp()
    second = next(node for node in model.graph.node if node.name == "second")
    second.op_type = "Gemm"
    second.input.append("c")
    model.graph.initializer.append(weight("c", 4))
    _, path = run("quantize-dynamic", model, **{parameter: ["second"]})
    kinds = {node.name: node.op_type for node in onnx.load(path).graph.node}
    assert [name for name, op in kinds.items() if op == "MatMul"] == [left]
    assert "MatMulInteger" in kinds.values()


@pytest.mark.parametrize("glob", ["sec*", "*d", "[ts]*", "secon?"])
def test_nodes_are_chosen_by_globs(run: Run, glob: str) -> None:
    for parameter, left in (("nodes_to_exclude", "second"), ("nodes_to_include", "first")):
        _, path = run("quantize-dynamic", mlp(), **{parameter: [glob]})
        assert [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"] == [left]


def test_a_glob_that_matches_nothing_is_answered_with_the_nearest_names(run: Run) -> None:
    for parameter in ("nodes_to_exclude", "nodes_to_include"):
        with pytest.raises(ValueError, match=rf"{parameter} names 'secnod\*'.*Did you mean 'second'"):
            run("quantize-dynamic", mlp(), **{parameter: ["secnod*"]})
    with pytest.raises(
        ValueError, match=r"op_types has 'Matmul\?\*', which matches no operator.*Did you mean 'MatMul'"
    ):
        run("quantize-dynamic", mlp(), op_types=["Matmul?*"])
    with pytest.raises(ValueError, match=r"names 'g\*t'"):
        run("float16", mlp(), node_block_list=["g*t"])


def test_a_name_that_looks_like_a_glob_is_a_name(run: Run) -> None:
    model = mlp()
    matmuls = [node for node in model.graph.node if node.op_type == "MatMul"]
    matmuls[0].name, matmuls[1].name = "layer[1]", "layer1"
    _, path = run("quantize-dynamic", model, nodes_to_exclude=["layer[1]"])
    assert [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"] == ["layer[1]"]


def test_globs_choose_among_the_operators_that_the_quantizer_takes(run: Run) -> None:
    model = mlp()
    everything, _ = run("quantize-static", model, samples_for(model))
    same, _ = run("quantize-static", model, samples_for(model), op_types=["*"])
    assert same["quantized"] == everything["quantized"]
    # A plain name that this model lacks is no mistake: one recipe serves many models.
    only, _ = run("quantize-dynamic", model, op_types=["Mat*", "Conv"])
    assert only["replaced"] == {"MatMul": 2}


def test_a_tree_model_is_left_as_it_is(run: Run) -> None:
    node = helper.make_node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([node], "trees", [value[0]], [value[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)
    result, _ = run("quantize-dynamic", model)
    assert "ai.onnx.ml" in result["warnings"][0]


def test_a_quantized_model_is_refused(run: Run) -> None:
    _, path = run("quantize-dynamic", mlp())
    for again in ("quantize-dynamic", "quantize-static", "float16"):
        with pytest.raises(ValueError, match="quantized"):
            run(again, path, [{"x": normal(1, 16)}])


def test_a_model_laid_out_for_one_cpu_is_refused(run: Run) -> None:
    _, path = run("optimize", conv_with_constants(), level="all")
    if not any(entry.domain == "com.microsoft.nchwc" for entry in onnx.load(path).opset_import):
        pytest.skip("this CPU has no blocked layout")
    with pytest.raises(ValueError, match="put optimize after it"):
        run("quantize-dynamic", path)


# quantize-static


def samples_for(model: onnx.ModelProto, count: int = 10) -> list[dict[str, Any]]:
    shape = [max(1, dim.dim_value) for dim in model.graph.input[0].type.tensor_type.shape.dim]
    # As in pictures and sounds, neighbours are alike; independent numbers would be complained of.
    return [{"x": np.cumsum(normal(*shape), axis=-1) / 2} for _ in range(count)]


@pytest.mark.parametrize(
    ("parameters", "op"),
    [
        ({}, "QuantizeLinear"),
        ({"per_channel": True}, "QuantizeLinear"),
        ({"format": "QOperator"}, "QLinearConv"),
        ({"format": "QOperator", "per_channel": True}, "QLinearConv"),
        ({"activation_type": "QUInt16"}, "QuantizeLinear"),
        ({"calibrate_method": "Entropy"}, "QuantizeLinear"),
        ({"calibrate_method": "Percentile", "percentile": 99.9}, "QuantizeLinear"),
        ({"weight_symmetry": "symmetric", "activation_symmetry": "symmetric"}, "QuantizeLinear"),
    ],
)
def test_static_quantization_works_at_opset_11(run: Run, parameters: dict[str, Any], op: str) -> None:
    model = conv_with_constants()
    data = samples_for(model)
    result, path = run("quantize-static", model, data, **parameters)
    assert result["quantized"][op] >= 2
    assert result["left_float"] == {}
    assert result["calibration_samples"] == 10
    assert result["warnings"] == []
    assert onnx.load(path).ir_version == 7
    if parameters.get("per_channel"):
        assert result["opset"] == "11 -> 13"
    assert cosine(model, path, data[0]) > 0.97


def test_samples_are_streamed_and_all_of_them_count(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    model = mlp()
    onnx.save(model, tmp_path / "in.onnx")
    samples = [{"x": np.full((1, 16), 10.0 if number == 39 else 0.1 * number, np.float32)} for number in range(40)]
    job = job_for(tmp_path / "job", tmp_path / "in.onnx", samples)
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    class Watched(PassJob):
        def feeds(self) -> Iterator[dict[str, Any]]:
            nonlocal alive, most
            for feed in super().feeds():
                alive += 1
                most = max(most, alive)
                weakref.finalize(feed["x"], gone)
                yield feed

    watched = Watched(**{one.name: getattr(job, one.name) for one in dataclasses.fields(job)})
    result = modules["quantize-static"].apply(watched)
    assert result["calibration_samples"] == 40
    assert 0 < most < 5
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(job.output).graph.initializer}
    # The last sample alone reaches 10: its range is 10 over 255 steps.
    assert float(scales["x_scale"]) == pytest.approx(10 / 255, rel=1e-3)


def test_a_mask_of_minus_infinity_is_named_loudly(run: Run) -> None:
    model = masked()
    result, _ = run("quantize-static", model, samples_for(model))
    loud = [text for text in result["warnings"] if text.startswith("RUINED RANGES")]
    assert len(loud) == 1
    assert "mask" in loud[0]
    assert "-3.4e38" in loud[0]
    result, _ = run("quantize-static", model, samples_for(model), op_types=["MatMul"])
    assert not any("RUINED" in text for text in result["warnings"])


def test_identical_or_few_samples_are_said(run: Run) -> None:
    model = mlp()
    one = {"x": normal(1, 16)}
    result, _ = run("quantize-static", model, [one] * 10)
    assert "identical" in result["warnings"][0]
    result, _ = run("quantize-static", model, [one])
    assert "Only 1 calibration sample" in result["warnings"][0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "no calibration samples"),
        ([{"wrong": np.zeros((1, 16), np.float32)}], "lacks the model's input x"),
        ([{"x": np.zeros((1, 5), np.float32)}], "shapes and types"),
    ],
)
def test_calibration_data_that_does_not_fit_is_a_plain_sentence(
    run: Run, data: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises((ValueError, RuntimeError), match=says):
        run("quantize-static", mlp(), data)


def test_static_quantization_leaves_branches_alone_and_says_so(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(branches(), model)
    result, path = run("quantize-static", model, [{"x": normal(5, 1, 8)}] * 2, op_types=["MatMul", "LSTM"])
    assert "outside the branches" in result["warnings"][0]
    assert path.read_bytes() == model.read_bytes()


# float16


def test_float16_halves_the_weights_and_keeps_the_interface(run: Run) -> None:
    pytest.importorskip("onnxconverter_common")
    model = mlp()
    result, path = run("float16", model)
    saved = onnx.load(path)
    assert result["float16_weights"] == 2
    assert saved.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert saved.ir_version == 8
    assert cosine(model, path, {"x": normal(3, 16)}) > 0.9999
    _, path = run("float16", model, keep_io_types=False)
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16


def test_float16_takes_the_second_converter_where_the_first_makes_an_invalid_model(run: Run) -> None:
    pytest.importorskip("onnxconverter_common")
    # A Cast to float is left as it is by onnxconverter_common, while its consumer turns to half precision.
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["gate"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "gate"], ["gated"]),
        helper.make_node("MatMul", ["gated", "w"], ["y"]),
    ]
    zero = numpy_helper.from_array(np.zeros((1,), np.float32), "zero")
    model = model_of(nodes, {"x": [2, 8]}, {"y": [2, 4]}, [weight("w", 8, 4), zero])
    result, path = run("float16", model)
    assert result["converter"] == "onnxruntime.transformers"
    assert "does not load" in result["converters_failed"][0]
    assert cosine(model, path, {"x": normal(2, 8)}) > 0.999


def test_weights_that_half_precision_cannot_hold_keep_their_nodes_in_float32(run: Run) -> None:
    # A running variance of 1e5, as PP-OCR's detector has one: clipped, it ruins the model without an error.
    scale = numpy_helper.from_array(np.ones(3, np.float32), "scale")
    shift = numpy_helper.from_array(np.zeros(3, np.float32), "shift")
    mean = numpy_helper.from_array(np.zeros(3, np.float32), "mean")
    variance = numpy_helper.from_array(np.array([1e5, 1, 2e5], np.float32), "variance")
    nodes = [
        helper.make_node("BatchNormalization", ["x", "scale", "shift", "mean", "variance"], ["n"], name="norm"),
        helper.make_node("Conv", ["n", "w"], ["y"], name="conv"),
    ]
    model = model_of(
        nodes, {"x": [1, 3, 6, 6]}, {"y": [1, 2, 4, 4]}, [weight("w", 2, 3, 3, 3), scale, shift, mean, variance]
    )
    result, path = run("float16", model)
    assert result["nodes_kept_float32"] == ["norm"]
    feed = {"x": normal(1, 3, 6, 6) * np.array([300, 1, 400], np.float32).reshape(1, 3, 1, 1)}
    assert cosine(model, path, feed) > 0.9999


def test_a_masks_infinity_becomes_a_number_that_half_precision_holds(run: Run) -> None:
    model = masked()
    result, path = run("float16", model)
    assert result["masks_changed"] == ["mask"]
    feed = samples_for(model, 1)[0]
    assert np.isfinite(outputs(path, feed)[0]).all()
    assert cosine(model, path, feed) > 0.999


def test_a_model_without_float_weights_is_left_as_it_is(run: Run) -> None:
    result, _ = run("float16", model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]}))
    assert result["warnings"][0].startswith("NO-OP")


# transformer-optimizer


def test_attention_is_fused_and_counted(run: Run) -> None:
    pytest.importorskip("sympy")
    model = attention()
    result, path = run("transformer-optimizer", model, num_heads=2, hidden_size=8)
    assert result["fused"]["Attention"] == 1
    assert result["fused"]["SkipLayerNormalization"] == 1
    assert result["nodes_after"] < result["nodes_before"]
    assert result["warnings"] == []
    assert onnx.load(path).ir_version == 8
    feed = {"x": normal(1, 4, 8), "mask": np.array([[1, 1, 1, 0]], np.int64)}
    assert cosine(model, path, feed) > 0.9999


def test_a_fused_model_can_be_quantized(run: Run) -> None:
    pytest.importorskip("sympy")
    model = attention()
    _, fused = run("transformer-optimizer", model, num_heads=2, hidden_size=8)
    feeds = [{"x": normal(1, 4, 8), "mask": np.array([[1, 1, 1, 0]], np.int64)} for _ in range(8)]
    result, path = run("quantize-dynamic", onnx.load(fused), per_channel=True)
    assert result["quantized"]["QAttention"] == 1
    assert cosine(model, path, feeds[0]) > 0.99
    result, path = run("quantize-static", onnx.load(fused), feeds, op_types=("MatMul",))
    assert result["quantized"]["QuantizeLinear"] >= 2
    assert cosine(model, path, feeds[0]) > 0.99


def test_an_expected_fusion_that_did_not_happen_is_said(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("sympy")
    model = tmp_path / "model.onnx"
    onnx.save(masked(), model)
    result, path = run("transformer-optimizer", model)
    assert result["warnings"][0].startswith("NO-OP")
    assert "0 Attention fused, though the model has 1 Softmax" in result["warnings"][1]
    assert "num_heads" in result["warnings"][1]
    assert path.read_bytes() == model.read_bytes()
    result, _ = run("transformer-optimizer", mlp())
    assert "Is it a transformer?" in result["warnings"][1]


def test_the_basic_level_before_fusing_needs_no_torch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sympy")
    monkeypatch.setitem(sys.modules, "torch", None)
    result, _ = run("transformer-optimizer", attention(), num_heads=2, hidden_size=8, opt_level=1)
    assert result["fused"]["Attention"] == 1


# External data


def test_external_data_is_read_and_copied_with_the_model(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "big"
    source.mkdir()
    onnx.save_model(mlp(), source / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    result, path = run("quantize-dynamic", source / "in.onnx", op_types=["LSTM"])
    assert result["warnings"][0].startswith("NO-OP")
    assert (path.parent / "in.data").read_bytes() == (source / "in.data").read_bytes()
    assert result["bytes_before"] > (source / "in.data").stat().st_size
    result, path = run("quantize-dynamic", source / "in.onnx")
    assert cosine(onnx.load(source / "in.onnx"), path, {"x": normal(2, 16)}) > 0.99


def test_weights_too_large_for_one_message_go_beside_the_model(
    run: Run, modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = import_module("._models.model_file", modules["optimize"].__package__)
    monkeypatch.setattr(helpers, "INLINE_LIMIT", 1000)
    model = mlp()
    for name, parameters in (("quantize-dynamic", {"nodes_to_exclude": ["first"]}), ("optimize", {"level": "basic"})):
        result, path = run(name, model, **parameters)
        assert (path.parent / "model.onnx.data").is_file()
        assert result["bytes_after"] == sum(file.stat().st_size for file in path.parent.iterdir())
        assert cosine(model, path, {"x": normal(2, 16)}) > 0.99
    result, path = run("float16", model)
    assert result["bytes_after"] == sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
    assert cosine(model, path, {"x": normal(2, 16)}) > 0.99
