"""``ortforge diff``: what it says of pairs of models that the passes make, and of files that are no models."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from transformer_sample import apply_pass, encoder_layer
from typer.testing import CliRunner

from ortforge.cli.main import app
from ortforge.errors import OrtforgeError
from ortforge.report.onnx_reading import read_model
from ortforge.report.onnx_weights import Contents
from ortforge.worker.module import load_module

PASSES = Path(__file__).parents[2] / "plugins" / "passes"


def diff(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the verb; return exit code, output and the message of its error."""
    done = CliRunner().invoke(app, ["diff", *map(str, arguments)])
    if isinstance(done.exception, OrtforgeError):
        return int(done.exception.exit_code), done.stdout, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


def told(*arguments: str | Path) -> dict[str, Any]:
    code, out, err = diff(*arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def passed(name: str, folder: Path, model: onnx.ModelProto | Path, **parameters: Any) -> Path:
    return apply_pass(load_module(PASSES / f"{name}.py", "apply"), folder, model, **parameters)[1]


@pytest.fixture(autouse=True)
def _module_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    onnx.save(encoder_layer(), tmp_path / "layer.onnx")
    return tmp_path / "layer.onnx"


# Reading


def test_everything_onnx_sees_is_seen_without_onnx(layer: Path, tmp_path: Path) -> None:
    model, read = onnx.load(layer), read_model(layer)
    assert Counter(node.op for node in read.nodes) == Counter(node.op_type for node in model.graph.node)
    assert {tensor.name: tensor.dims for tensor in read.weights} == {
        tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer
    }
    assert [(value.name, value.type) for value in read.inputs] == [
        ("x", "float32[batch, 5, 8]"),
        ("mask", "int64[batch, 5]"),
    ]
    assert (read.ir_version, read.producer, read.opsets) == (8, "pytorch", {"ai.onnx": 17})
    transpose = next(node for node in read.nodes if node.outputs == ("k_t",))
    assert transpose.attributes == {"perm": [0, 2, 3, 1]}


def branch(name: str, value: float) -> onnx.GraphProto:
    constant = helper.make_node("Constant", [], [name], value_float=value)
    return helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])])


def test_branches_functions_and_constants_are_part_of_a_model(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["w"], value=weight),
            helper.make_node("If", ["c"], ["y"], then_branch=branch("yes", 1.0), else_branch=branch("no", -1.5)),
            helper.make_node("Twice", ["y"], ["z"], domain="ours"),
        ],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    twice = helper.make_function("ours", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports)
    onnx.save(helper.make_model(graph, opset_imports=imports, functions=[twice]), tmp_path / "m.onnx")
    read = read_model(tmp_path / "m.onnx")
    assert Counter(node.op for node in read.nodes) == {"Constant": 3, "If": 1, "ours:Twice": 1, "Add": 1}
    assert read.functions == {"ours:Twice": "(a) → b; ai.onnx 17, ours 1"}
    assert [(tensor.name, tensor.dims) for tensor in read.weights] == [("w", (2, 3))]
    assert {node.attributes["value_float"] for node in read.nodes if "value_float" in node.attributes} == {1.0, -1.5}


@pytest.mark.parametrize(
    "dtype", ["FLOAT", "DOUBLE", "INT64", "INT32", "UINT8", "INT8", "BOOL", "UINT64", "FLOAT16", "UINT16"]
)
def test_values_are_the_same_however_a_file_holds_them(tmp_path: Path, dtype: str) -> None:
    kind = TensorProto.DataType.Value(dtype)
    values = np.array([0, 1, -1, 100, 127]).astype(helper.tensor_dtype_to_np_dtype(kind))
    listed = helper.make_tensor("t", kind, [5], values.tolist())
    raw = numpy_helper.from_array(values, "t")
    assert listed.raw_data == b""
    digests = []
    for name, tensor in (("listed", listed), ("raw", raw), ("outside", raw)):
        output = helper.make_tensor_value_info("t", kind, [5])
        model = helper.make_model(helper.make_graph([], "g", [], [output], [tensor]))
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, path, save_as_external_data=name == "outside", location="t.data", size_threshold=0)
        read = read_model(path)
        assert read.weights[0].bytes == values.nbytes
        digests.append(Contents(read).digest(read.weights[0]))
    assert len(set(digests)) == 1


SOUND = encoder_layer().SerializeToString()


@given(st.integers(0, len(SOUND) - 1), st.binary(min_size=0, max_size=8), st.booleans())
def test_a_damaged_file_is_read_or_refused_and_never_more(
    tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(SOUND[:at] + other + (b"" if cut else SOUND[at + len(other) :]))
    try:
        read = read_model(path)
    except ValueError as problem:
        assert str(problem)
    else:
        assert read.nodes or read.outputs


# Differences


def test_a_fusion_is_said_with_what_it_replaces(layer: Path, tmp_path: Path) -> None:
    fused = passed("transformer_optimizer", tmp_path, layer)
    found = told(layer, fused)
    assert found["fusions"]["gained"] == {
        "com.microsoft:SkipLayerNormalization": 2,
        "com.microsoft:Attention": 1,
        "com.microsoft:BiasGelu": 1,
    }
    assert found["fusions"]["instead_of"]["MatMul"] == 5
    assert found["operators"]["Softmax"] == [1, 0]
    assert found["opsets"] == {"com.microsoft": [None, 1]}
    assert found["nodes"]["added"]["Attention_0"] == "com.microsoft:Attention"
    assert "norm_mid" in found["nodes"]["removed"]
    assert {name for name in found["weights"]["removed"] if name.startswith("w_")} == {"w_q", "w_k", "w_v"}
    assert not found["same"]
    code, out, _ = diff(layer, fused)
    assert code == 0
    assert "fused: 2 SkipLayerNormalization + 1 Attention + 1 BiasGelu, instead of" in out
    assert "opsets: com.microsoft none → 1" in out
    assert "… and" in out
    _, everything, _ = diff(layer, fused, "--all")
    assert len(everything.splitlines()) > len(out.splitlines())
    assert "…" not in everything


def test_quantization_is_said_as_a_share(layer: Path, tmp_path: Path) -> None:
    small = passed("quantize_dynamic", tmp_path, layer, op_types=["MatMul"])
    found = told(layer, small)
    share = found["quantization"]
    assert share["a"]["operators"] == 0
    assert (share["b"]["operators"], share["b"]["of"], share["b"]["forms"]) == (6, 8, {"dynamic": 6})
    assert 0 < share["b"]["low_bit_bytes"] < share["b"]["bytes"] < share["a"]["bytes"]
    assert found["initializers"]["b"]["int8"]["count"] == 12
    assert "quantized: nothing → 6 of 8 heavy operators (6 dynamic)" in diff(layer, small)[1]
    # The factors of attention's own products are no weights, and stay float; so the other way round:
    assert "(6 dynamic)" in diff(small, layer)[1].partition("→ nothing")[0]


def test_weights_that_became_integers_are_paired_with_what_they_were(layer: Path, tmp_path: Path) -> None:
    quantized = passed("quantize_dynamic", tmp_path / "q", layer, op_types=["MatMul"])
    weights = told(layer, quantized)["weights"]
    assert weights["quantized"] and not set(weights["quantized"]) & {*weights["added"], *weights["removed"]}
    assert all(a.startswith("float32") and "int8" in b for a, b in weights["quantized"].values())
    assert any(name.endswith("_scale") for name in weights["scales"])
    out = diff(layer, quantized)[1]
    assert f"{len(weights['quantized'])} quantized" in out and "scales and zero points added" in out
    assert told(layer, layer)["weights"]["scales"] == []


def test_offline_optimization_shows_its_stamp_and_changes_no_weight(layer: Path, tmp_path: Path) -> None:
    found = told(layer, passed("optimize", tmp_path, layer, level="basic"))
    assert json.loads(found["metadata"]["ortforge.stamp"][1])["level"] == "basic"
    assert found["weights"]["changed"] == []
    assert found["weights"]["equal"] > 10


def test_a_changed_weight_a_renamed_one_and_one_of_another_shape(layer: Path, tmp_path: Path) -> None:
    model = onnx.load(layer)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    altered = numpy_helper.to_array(weights["w_q"]).copy()
    altered[0, 0] += 1e-6
    weights["w_q"].CopyFrom(numpy_helper.from_array(altered, "w_q"))
    weights["b_up"].CopyFrom(numpy_helper.from_array(np.zeros((1, 16), np.float32), "b_up"))
    weights["w_down"].name = "projection"
    for node in model.graph.node:
        node.input[:] = ["projection" if name == "w_down" else name for name in node.input]
        if node.op_type == "Softmax":
            node.attribute[0].i = 3
    onnx.save(model, tmp_path / "other.onnx")
    found = told(layer, tmp_path / "other.onnx")
    assert found["weights"]["changed"] == ["w_q"]
    assert found["weights"]["retyped"] == {"b_up": ["float32[16]", "float32[1, 16]"]}
    assert found["weights"]["renamed"] == {"w_down": "projection"}
    changed = found["nodes"]["changed"]
    assert sorted(change["operator"] for change in changed.values()) == ["MatMul", "Softmax"]
    assert {"axis": [-1, 3]} in [change.get("attributes") for change in changed.values()]
    _, out, _ = diff(layer, tmp_path / "other.onnx")
    assert "1 with other values, 1 of another type or shape, 1 renamed" in out
    assert "axis: -1 → 3" in out


def test_inputs_and_outputs_that_changed(layer: Path, tmp_path: Path) -> None:
    model = onnx.load(layer)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT32
    model.graph.output[0].name = "z"
    onnx.save(model, tmp_path / "other.onnx")
    found = told(layer, tmp_path / "other.onnx")
    assert found["inputs"]["changed"] == {"mask": ["int64[batch, 5]", "int32[batch, 5]"]}
    assert (list(found["outputs"]["removed"]), list(found["outputs"]["added"])) == (["y"], ["z"])


def controlled(*, swapped: bool = False, value: float = 1.0) -> onnx.ModelProto:
    """Return ``if c then x + w else x - w``; nodes, weights and outputs of the branches have the same names."""
    branches = {}
    for name, operator, weight in (("then_branch", "Add", value), ("else_branch", "Sub", 2.0)):
        nodes = [
            helper.make_node("Constant", [], ["w"], value_float=weight),
            helper.make_node(operator, ["x", "w"], ["o"], name="sum"),
        ]
        branches[name] = helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])]
        )
    if swapped:
        branches = {"then_branch": branches["else_branch"], "else_branch": branches["then_branch"]}
    inputs = [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2])]
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], name="if", **branches)],
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_swapped_branches_are_another_model_and_their_order_in_the_file_is_none(tmp_path: Path) -> None:
    onnx.save(controlled(), tmp_path / "a.onnx")
    onnx.save(controlled(swapped=True), tmp_path / "swapped.onnx")
    found = told(tmp_path / "a.onnx", tmp_path / "swapped.onnx")
    assert not found["same"]
    assert {change["was"] for change in found["nodes"]["changed"].values() if "was" in change} == {"Add", "Sub"}
    unlike = controlled()
    for graph in (attribute.g for attribute in unlike.graph.node[0].attribute):
        graph.node[1].name = f"{graph.name}/sum"
    onnx.save(unlike, tmp_path / "named.onnx")
    for attribute in unlike.graph.node[0].attribute:
        attribute.name = {"then_branch": "else_branch", "else_branch": "then_branch"}[attribute.name]
    onnx.save(unlike, tmp_path / "named_swapped.onnx")
    moved = told(tmp_path / "named.onnx", tmp_path / "named_swapped.onnx")["nodes"]["changed"]
    assert moved["then_branch/sum"]["place"] == ["If.then_branch", "If.else_branch"]
    assert "moved: If.then_branch → If.else_branch" in diff(tmp_path / "named.onnx", tmp_path / "named_swapped.onnx")[1]
    turned = controlled()
    kept = [onnx.AttributeProto.FromString(each.SerializeToString()) for each in turned.graph.node[0].attribute]
    del turned.graph.node[0].attribute[:]
    turned.graph.node[0].attribute.extend(kept[::-1])
    onnx.save(turned, tmp_path / "turned.onnx")
    assert told(tmp_path / "a.onnx", tmp_path / "turned.onnx")["same"]


def test_a_constant_that_is_no_tensor_has_a_value_too(tmp_path: Path) -> None:
    onnx.save(controlled(), tmp_path / "a.onnx")
    onnx.save(controlled(value=1.5), tmp_path / "b.onnx")
    (change,) = told(tmp_path / "a.onnx", tmp_path / "b.onnx")["nodes"]["changed"].values()
    assert change["attributes"] == {"value_float": [1.0, 1.5]}


def test_a_function_of_another_opset_or_signature_is_another_function(tmp_path: Path) -> None:
    node = helper.make_node("F", ["x", "x"], ["y"], domain="ours")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    body = [helper.make_node("Sub", ["a", "b"], ["c"])]

    def saved(name: str, inputs: list[str], opset: int, default: float | None = None, note: str = "") -> Path:
        made = helper.make_function("ours", "F", inputs, ["c"], body, [helper.make_opsetid("", opset)])
        made.doc_string = note  # moves all that comes after it
        if default is not None:
            value = numpy_helper.from_array(np.full(4, default, np.float32))
            made.attribute_proto.append(helper.make_attribute("bias", value))
        onnx.save(helper.make_model(graph, opset_imports=imports, functions=[made]), tmp_path / name)
        return tmp_path / name

    before = saved("a.onnx", ["a", "b"], 17)
    newer = told(before, saved("b.onnx", ["a", "b"], 18))
    assert newer["functions"]["changed"] == {"ours:F": ["(a, b) → c; ai.onnx 17", "(a, b) → c; ai.onnx 18"]}
    one = saved("d.onnx", ["a", "b"], 17, 1.0)
    assert not told(one, saved("e.onnx", ["a", "b"], 17, 2.0))["same"]
    assert told(one, saved("f.onnx", ["a", "b"], 17, 1.0, "a note"))["same"]
    turned = saved("c.onnx", ["b", "a"], 17)
    assert not told(before, turned)["same"]
    assert "~ ours:F: (a, b) → c; ai.onnx 17 ⇒ (b, a) → c; ai.onnx 17" in diff(before, turned)[1]


def test_outputs_in_another_order_are_a_difference(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz"]
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    for name, outputs in (("a", value[1:]), ("b", value[:0:-1])):
        onnx.save(helper.make_model(helper.make_graph(nodes, "g", value[:1], outputs)), tmp_path / f"{name}.onnx")
    found = told(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert (found["outputs"]["order"], found["inputs"]["order"]) == ([["y", "z"], ["z", "y"]], [])
    assert "in another order: y, z → z, y" in diff(tmp_path / "a.onnx", tmp_path / "b.onnx")[1]


def test_the_same_model_in_another_file_is_equal(layer: Path, tmp_path: Path) -> None:
    assert told(layer, layer)["identical"]
    onnx.save(onnx.load(layer), tmp_path / "out.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    found = told(layer, tmp_path / "out.onnx")
    assert (found["same"], found["identical"]) == (True, False)
    assert found["b"]["external_bytes"] == (tmp_path / "w.data").stat().st_size
    assert "The models are equal" in diff(layer, tmp_path / "out.onnx")[1]


def test_structure_is_compared_without_the_external_data(layer: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(layer), tmp_path / "out.onnx", save_as_external_data=True, location="w.data", size_threshold=64)
    (tmp_path / "w.data").unlink()
    found = told(layer, tmp_path / "out.onnx")
    assert "'w.data', and it is not there" in found["notes"][0]
    assert "could not be compared; everything else was" in found["notes"][-1]
    assert "w_q" in found["weights"]["not_compared"]
    assert found["operators"] == {}
    assert not found["same"], "nobody knows"


def test_external_data_outside_the_models_folder_is_not_read(layer: Path, tmp_path: Path) -> None:
    model = onnx.load(layer)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    assert "which is refused" in told(layer, tmp_path / "bad.onnx")["notes"][0]


def test_external_data_that_is_too_short_is_said(layer: Path, tmp_path: Path) -> None:
    onnx.save(onnx.load(layer), tmp_path / "out.onnx", save_as_external_data=True, location="w.data", size_threshold=64)
    data = (tmp_path / "w.data").read_bytes()
    (tmp_path / "w.data").write_bytes(data[: len(data) // 2])
    assert any("which has only" in note for note in told(layer, tmp_path / "out.onnx")["notes"])


def test_it_needs_a_core_install_and_no_more(layer: Path, tmp_path: Path) -> None:
    fused = passed("transformer_optimizer", tmp_path, layer)
    without = "import sys; sys.modules.update(dict.fromkeys(['onnx', 'onnxruntime', 'google.protobuf']))\n"
    command = [sys.executable, "-c", f"{without}from ortforge.cli.main import main; main()", "diff", layer, fused]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fused:" in done.stdout


def test_scripts_may_ask_for_an_exit_code(layer: Path, tmp_path: Path) -> None:
    assert diff(layer, layer, "--exit-code")[0] == 0
    assert diff(layer, passed("optimize", tmp_path, layer), "--exit-code")[0] == 1


# Files that are no models


def test_a_misspelt_file_is_answered_with_the_nearest(layer: Path, tmp_path: Path) -> None:
    code, _, err = diff(layer, tmp_path / "layr.onnx")
    assert code == 2
    assert f"Perhaps you meant {layer}" in err


def test_orts_own_format_is_named_and_what_can_be_said_is_said(layer: Path, tmp_path: Path) -> None:
    flat = passed("optimize", tmp_path, layer, format="ort")
    code, _, err = diff(layer, flat)
    assert code == 2
    assert "model.ort is in ORT's own format" in err
    assert f"{layer.stat().st_size:,} and {flat.stat().st_size:,} bytes, different" in err
    assert "the same bytes" in diff(flat, flat)[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (SOUND[:-100], "it ends too early"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "the download went wrong"),
        (b"\x1c\x00\x00\x00TFL3 and so on", "TensorFlow Lite"),
        (b"\x02\x01\x00\x00\x00\x00\x00\x00" + b'{"weight":{}}', "weights without a graph"),
        (b"just some words", "is no ONNX model"),
        (b"\x08\x08", "it holds no graph"),
    ],
)
def test_what_is_no_model_is_said(layer: Path, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "other.onnx").write_bytes(content)
    code, out, err = diff(layer, tmp_path / "other.onnx")
    assert (code, out) == (2, "")
    assert says in err
    assert "other.onnx" in err


def test_a_checkpoint_is_no_model(layer: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    assert "looks like a zip archive" in diff(tmp_path / "model.pt", layer)[2]
