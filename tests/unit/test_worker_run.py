"""What a worker answers when it runs models: outputs, placement, and failures in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ortforge.runtime.supervisor import JobOutcome
from ortforge.worker.samples import Samples, SampleWriter

Supervise = Callable[..., JobOutcome]
FLOAT = TensorProto.FLOAT
value = helper.make_tensor_value_info


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    opset: int = 17,
    ir: int = 8,
    initializers: Sequence[onnx.TensorProto] = (),
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir), str(path))
    return path


def relu(path: Path, **options: Any) -> Path:
    return save(
        path,
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", FLOAT, ["n", 3])],
        [value("y", FLOAT, ["n", 3])],
        **options,
    )


@pytest.fixture
def run(supervise: Supervise, tmp_path: Path) -> Callable[..., JobOutcome]:
    """Run a model over feeds; outputs go to ``tmp_path/outputs``."""

    def run(model: Path, feeds: Sequence[Mapping[str, Any]], **changes: Any) -> JobOutcome:
        writer = SampleWriter(tmp_path / "samples")
        for feed in feeds:
            writer.write(feed)
        writer.close(random=True)
        job = {
            "op": "run",
            "model": str(model),
            "samples": str(tmp_path / "samples"),
            "ep": "cpu",
            "providers": [["CPUExecutionProvider", {}]],
            "session": {"graph_optimization_level": "all", "intra_op_threads": 1},
            "output": str(tmp_path / "outputs"),
            "placement": False,
            **changes,
        }
        return supervise(job)

    return run


Run = Callable[..., JobOutcome]
ONES = {"x": np.ones((2, 3), np.float32)}


# Outputs


def test_outputs_are_what_onnxruntime_answers(run: Run, tmp_path: Path) -> None:
    """A convolution with weights, several samples, one of them of another size."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    model = save(
        tmp_path / "conv.onnx",
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
            helper.make_node("GlobalAveragePool", ["y"], ["z"]),
        ],
        [value("x", FLOAT, ["n", 3, "h", "w"])],
        [value("y", FLOAT, None), value("z", FLOAT, None)],
        initializers=[onnx.numpy_helper.from_array(weight, "w")],
    )
    feeds = [{"x": generator.standard_normal((1, 3, size, size)).astype(np.float32)} for size in (8, 8, 11)]
    outcome = run(model, feeds, placement=True)
    assert outcome.status == "ok"
    direct = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    kept = Samples(tmp_path / "outputs")
    assert kept.names == ("y", "z")
    assert kept.random
    for feed, answer in zip(feeds, kept, strict=True):
        y, z = direct.run(None, feed)
        np.testing.assert_allclose(answer["y"], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(answer["z"], z, rtol=1e-5, atol=1e-6)
    result = outcome.result
    assert result["ort_version"] == ort.__version__
    assert result["samples"] == 3
    assert result["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 3, "h", "w"]}]
    assert min(result["import_s"], result["load_s"], result["first_run_s"]) > 0
    assert result["peak_rss"] > 10 << 20
    placed = result["placement"]
    assert set(placed["nodes"]) == {"CPUExecutionProvider"}
    assert placed["ops"]["CPUExecutionProvider"]["Conv"] == 1
    assert placed["time_share"] == {"CPUExecutionProvider": 1.0}
    assert placed["agree"]
    assert "profile" in placed["sources"]
    assert not list(tmp_path.rglob("profile*.json"))


@pytest.mark.parametrize(
    ("kind", "opset", "values"),
    [
        (TensorProto.BFLOAT16, 13, [1.0, 2.0, -3.5, np.inf]),
        (TensorProto.FLOAT8E4M3FN, 19, [1.0, 448.0, -0.001953125, 0.0]),
        (TensorProto.FLOAT8E4M3FNUZ, 19, [1.0, 240.0, -0.0009765625, 0.0]),
        (TensorProto.FLOAT8E5M2, 19, [1.0, 57344.0, -3.5, 0.0]),
        (TensorProto.FLOAT8E5M2FNUZ, 19, [1.0, 57344.0, -3.5, 0.0]),
    ],
)
def test_types_that_numpy_does_not_know_are_widened(
    run: Run, tmp_path: Path, kind: int, opset: int, values: list[float]
) -> None:
    """The values are exact in their type: what comes back is what went in."""
    cast = helper.make_node("Cast", ["x"], ["y"], to=kind)
    model = save(tmp_path / "m.onnx", [cast], [value("x", FLOAT, [4])], [value("y", kind, [4])], opset=opset, ir=9)
    outcome = run(model, [{"x": np.array(values, np.float32)}])
    assert outcome.status == "ok"
    kept = Samples(tmp_path / "outputs")
    assert kept.widened == ("y",)
    assert kept[0]["y"].dtype == np.float32
    assert kept[0]["y"].tolist() == values


def test_sequences_and_maps_become_several_tensors(run: Run, tmp_path: Path) -> None:
    pair = helper.make_node("SequenceConstruct", ["x", "x"], ["s"])
    labels = helper.make_node("ZipMap", ["x"], ["m"], domain="ai.onnx.ml", classlabels_int64s=[30, 10, 20])
    tensor = helper.make_tensor_type_proto(FLOAT, None)
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, tensor))
    outputs = [helper.make_tensor_sequence_value_info("s", FLOAT, None), helper.make_value_info("m", maps)]
    model = save(tmp_path / "m.onnx", [pair, labels], [value("x", FLOAT, [1, 3])], outputs)
    outcome = run(model, [{"x": np.array([[3, 1, 2]], np.float32)}])
    assert outcome.status == "ok"
    answer = Samples(tmp_path / "outputs")[0]
    assert set(answer) == {"s[0]", "s[1]", "m[0][values]"}
    assert answer["s[1]"].tolist() == [[3, 1, 2]]
    assert answer["m[0][values]"].tolist() == [1, 2, 3]  # of labels 10, 20, 30


def test_strings_go_through(run: Run, tmp_path: Path) -> None:
    string = TensorProto.STRING
    node = helper.make_node("Identity", ["x"], ["y"])
    model = save(tmp_path / "m.onnx", [node], [value("x", string, ["n"])], [value("y", string, ["n"])])
    assert run(model, [{"x": np.array(["", "ä", "three"])}]).status == "ok"
    assert Samples(tmp_path / "outputs")[0]["y"].tolist() == ["", "ä", "three"]


# Placement


def test_a_graph_that_is_computed_when_it_is_loaded_has_no_nodes(run: Run, tmp_path: Path) -> None:
    constant = onnx.numpy_helper.from_array(np.ones(3, np.float32), "c")
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["c"], ["y"])],
        [value("x", FLOAT, ["n", 3])],
        [value("y", FLOAT, [3])],
        initializers=[constant],
    )
    placed = run(model, [ONES], placement=True).result["placement"]
    assert placed["agree"]
    assert placed["time_share"] == {}


def test_nodes_inside_branches_and_loops_are_counted_once(run: Run, tmp_path: Path) -> None:
    """A loop of five turns: its body's node runs five times and is one node."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v_in", "v_in"], ["v_out"], name="double"),
            helper.make_node("Identity", ["cond_in"], ["cond_out"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("cond_in", TensorProto.BOOL, []), value("v_in", FLOAT, None)],
        [value("cond_out", TensorProto.BOOL, []), value("v_out", FLOAT, None)],
    )
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        [value("n", TensorProto.INT64, []), value("x", FLOAT, [3])],
        [value("y", FLOAT, None)],
    )
    outcome = run(model, [{"n": np.array(5), "x": np.ones(3, np.float32)}], placement=True)
    assert outcome.status == "ok"
    assert Samples(tmp_path / "outputs")[0]["y"].tolist() == [32, 32, 32]
    assert outcome.result["placement"]["ops"]["CPUExecutionProvider"]["Add"] == 1


# Data that does not fit


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({"data": np.ones((2, 3), np.float32)}, ["'data'", "does not have", "'x'"]),
        ({}, ["wants input 'x'", "float32 [n, 3]", "sample 0 gives nothing"]),
        ({"x": np.ones((2, 3), np.float64)}, ["'x'", "wants float32 [n, 3]", "gives float64 [2, 3]"]),
        ({"x": np.ones((2, 4), np.float32)}, ["'x'", "another shape", "gives float32 [2, 4]"]),
        ({"x": np.ones(3, np.float32)}, ["'x'", "another number of dimensions", "gives float32 [3]"]),
        ({"x": np.array([["a", "b", "c"]])}, ["'x'", "gives string [1, 3]"]),
    ],
)
def test_data_that_does_not_fit_is_named_before_anything_runs(
    run: Run, tmp_path: Path, feed: dict[str, Any], words: list[str]
) -> None:
    outcome = run(relu(tmp_path / "relu.onnx"), [feed])
    assert (outcome.status, outcome.kind) == ("failed", "input")
    assert all(word in outcome.reason for word in words), outcome.reason


def test_a_later_sample_that_does_not_fit_is_named_by_number(run: Run, tmp_path: Path) -> None:
    outcome = run(relu(tmp_path / "relu.onnx"), [ONES, {"x": np.ones((2, 5), np.float32)}])
    assert outcome.kind == "input"
    assert "sample 1" in outcome.reason


def test_an_initializer_may_be_fed_and_may_be_left_out(run: Run, tmp_path: Path) -> None:
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        [value("x", FLOAT, ["n", 3]), value("w", FLOAT, [1])],
        [value("y", FLOAT, None)],
        initializers=[helper.make_tensor("w", FLOAT, [1], [2.0])],
    )
    assert run(model, [ONES, {**ONES, "w": np.array([5], np.float32)}]).status == "ok"
    assert [sample["y"][0, 0] for sample in Samples(tmp_path / "outputs")] == [2, 5]


def test_no_samples_and_no_folder(run: Run, tmp_path: Path) -> None:
    assert "no samples" in run(relu(tmp_path / "relu.onnx"), []).reason
    outcome = run(tmp_path / "relu.onnx", [], samples=str(tmp_path / "nowhere"))
    assert outcome.kind == "input"
    assert "nowhere is no folder of samples" in outcome.reason


# Models that do not run


def test_operators_opsets_and_versions_that_the_runtime_lacks(run: Run, tmp_path: Path) -> None:
    x, y = [value("x", FLOAT, ["n", 3])], [value("y", FLOAT, None)]
    unknown = save(tmp_path / "op.onnx", [helper.make_node("Frobnicate", ["x"], ["y"])], x, y)
    foreign = save(tmp_path / "domain.onnx", [helper.make_node("Relu", ["x"], ["y"], domain="a.b")], x, y)
    double = TensorProto.DOUBLE
    no_kernel = save(
        tmp_path / "kernel.onnx",
        [helper.make_node("Det", ["x"], ["y"])],
        [value("x", double, [2, 2])],
        [value("y", double, None)],
    )
    newer = f"This ONNX Runtime {ort.__version__} is too old for the model: "
    cases = {
        unknown: ("unsupported", "Frobnicate"),
        foreign: ("unsupported", "a.b"),
        no_kernel: ("unsupported", "Det"),
        relu(tmp_path / "opset.onnx", opset=99): ("incompatible", f"{newer}Opset 99"),
        relu(tmp_path / "ir.onnx", ir=99): ("incompatible", f"{newer}Unsupported model IR version: 99"),
    }
    for model, (status, word) in cases.items():
        outcome = run(model, [ONES])
        assert outcome.status == status, (model.name, outcome.reason)
        assert word in outcome.reason
        assert "onnxruntime_src" not in outcome.reason
        assert "ONNXRuntimeError" not in outcome.reason


def test_files_that_are_no_models(run: Run, tmp_path: Path) -> None:
    truncated = relu(tmp_path / "truncated.onnx")
    truncated.write_bytes(truncated.read_bytes()[:-9])
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    text = tmp_path / "text.onnx"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    dangling = save(
        tmp_path / "dangling.onnx",
        [helper.make_node("Relu", ["nothing"], ["y"])],
        [value("x", FLOAT, ["n", 3])],
        [value("y", FLOAT, None)],
    )
    for model in (truncated, empty, text, dangling, tmp_path / "missing.onnx"):
        outcome = run(model, [ONES])
        assert (outcome.status, outcome.kind) == ("failed", "model"), (model.name, outcome.reason)


def test_a_tensor_too_large_is_out_of_memory(run: Run, tmp_path: Path) -> None:
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        [value("x", FLOAT, [1, 1]), value("s", TensorProto.INT64, [2])],
        [value("y", FLOAT, None)],
    )
    feed = {"x": np.ones((1, 1), np.float32), "s": np.array([1 << 20, 1 << 20])}
    outcome = run(model, [feed])
    assert outcome.status == "out-of-memory"
    assert outcome.kind == "memory"


def test_an_error_while_running_is_short(run: Run, tmp_path: Path) -> None:
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("Reshape", ["x", "s"], ["y"], name="the_reshape")],
        [value("x", FLOAT, [1, 3]), value("s", TensorProto.INT64, [2])],
        [value("y", FLOAT, None)],
    )
    outcome = run(model, [{"x": np.ones((1, 3), np.float32), "s": np.array([7, 3])}])
    assert (outcome.status, outcome.kind) == ("failed", "failed")
    assert outcome.reason.startswith("Reshape node 'the_reshape': ")
    assert "cannot be reshaped" in outcome.reason


# What is asked of the session


@pytest.mark.parametrize("ep", ["CUDAExecutionProvider", "NoSuchExecutionProvider"])
def test_an_ep_that_the_runtime_lacks_does_not_become_the_cpu(run: Run, tmp_path: Path, ep: str) -> None:
    outcome = run(relu(tmp_path / "relu.onnx"), [ONES], providers=[[ep, {}], ["CPUExecutionProvider", {}]])
    assert outcome.status == "unsupported"
    assert f"has no {ep}" in outcome.reason


def test_a_plugin_library_that_is_none(run: Run, tmp_path: Path) -> None:
    library = tmp_path / "libplugin.so"
    library.write_bytes(b"no library")
    session = {"library": str(library), "registration": "TheEP"}
    outcome = run(relu(tmp_path / "relu.onnx"), [ONES], providers=[["TheEP", {}]], session=session)
    assert outcome.status == "unsupported"
    assert "cannot register the plugin EP TheEP" in outcome.reason


def test_session_options_are_obeyed(run: Run, tmp_path: Path) -> None:
    """With optimizations off both of two Relus run; ORT's config refuses a value that makes no sense to it."""
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    x, y = [value("x", FLOAT, ["n", 3])], [value("y", FLOAT, None)]
    model = save(tmp_path / "m.onnx", nodes, x, y)
    ops = {}
    for level in ("disable", "all"):
        session = {"graph_optimization_level": level, "config": {"session.intra_op.allow_spinning": "0"}}
        ops[level] = run(model, [ONES], placement=True, session=session).result["placement"]["ops"]
    assert ops["disable"] == {"CPUExecutionProvider": {"Identity": 1, "Relu": 1}}
    assert ops["all"] == {"CPUExecutionProvider": {"Relu": 1}}
    outcome = run(model, [ONES], session={"graph_optimization_level": "extreme"})
    assert outcome.status == "failed"
    assert "extreme" in outcome.reason


def test_probe_says_what_the_runtime_is(supervise: Supervise) -> None:
    result = supervise({"op": "probe"}).result
    assert result["ort_version"] == ort.__version__
    assert "CPUExecutionProvider" in result["providers"]
    assert result["numpy"] == np.__version__
    assert any("onnxruntime_pybind11_state" in name for name in result["libraries"])
    assert all(len(digest) == 64 for digest in result["libraries"].values())
