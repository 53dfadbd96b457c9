"""``ortforge diff`` on pairs that differ in one thing: ``same`` means the same computation and the same interface."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_model_diff import diff, told

Change = Callable[[onnx.ModelProto], object]


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def value(name: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def base() -> onnx.ModelProto:
    """Return a model with a sparse weight, branches with a loop inside, a function, attributes and 4-bit weights."""
    weight = np.arange(16, dtype=np.float32).reshape(4, 4)
    inner = helper.make_graph(
        [helper.make_node("Gemm", ["t", "k"], ["deep"], name="gemm", alpha=1.0, transB=1)],
        "inner",
        [],
        [value("deep", ["N", 4])],
        [tensor("k", weight)],
    )
    other = helper.make_graph([helper.make_node("Neg", ["t"], ["d2"])], "other", [], [value("d2", ["N", 4])])
    then_nodes = [
        helper.make_node("Mul", ["h", "two"], ["t"], name="mul"),
        helper.make_node("If", ["c"], ["ti"], name="if2", then_branch=inner, else_branch=other),
    ]
    then = helper.make_graph(then_nodes, "then", [], [value("ti", ["N", 4])], [tensor("two", np.float32([2]))])
    orelse = helper.make_graph([helper.make_node("Neg", ["h"], ["e"])], "else", [], [value("e", ["N", 4])])
    values, indices = tensor("S", np.float32([1, 3])), tensor("Si", np.int64([0, 5]))
    function = helper.make_function(
        "local",
        "Scale",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["s"], value_float=2.0),
            helper.make_node("Mul", ["a", "s"], ["p"]),
            helper.make_node("LeakyRelu", ["p"], ["b"]),
        ],
        [helper.make_opsetid("", 21)],
        attribute_protos=[helper.make_attribute("alpha", 0.5)],
    )
    reference = function.node[2].attribute.add()
    reference.name, reference.type, reference.ref_attr_name = "alpha", onnx.AttributeProto.FLOAT, "alpha"
    packed = helper.make_tensor("q", TensorProto.INT4, [3], [1, -2, 3])
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["m"], name="mm"),
        helper.make_node("MatMul", ["m", "S"], ["h"], name="ms"),
        helper.make_node("If", ["c"], ["i"], name="if", then_branch=then, else_branch=orelse),
        helper.make_node("Clip", ["i", "", "hi"], ["cl"], name="clip"),
        helper.make_node("Scale", ["cl"], ["y"], domain="local", name="call"),
        helper.make_node("DequantizeLinear", ["q", "qs"], ["z"], name="dq"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", ["N", 4]), value("c", [], TensorProto.BOOL)],
        [value("y", ["N", 4]), value("z", [3])],
        [tensor("W", weight), tensor("hi", np.float32(3)), packed, tensor("qs", np.float32(0.5))],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [4, 4])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])


def branch(model: onnx.ModelProto, name: str = "then_branch") -> onnx.GraphProto:
    return next(attribute.g for attribute in model.graph.node[2].attribute if attribute.name == name)


def inner_gemm(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(a.g for a in branch(model).node[1].attribute if a.name == "then_branch").node[0]


def set_array(target: onnx.TensorProto, array: np.ndarray) -> None:
    target.CopyFrom(tensor(target.name, array))


def add_field(message: object, number: int) -> None:
    """Append an unknown field of wire type 0."""
    tag = number << 3
    raw = bytes([(tag & 0x7F) | 0x80, tag >> 7, 1]) if tag > 0x7F else bytes([tag, 1])
    message.MergeFromString(raw)  # type: ignore[attr-defined]


def set_input_type(model: onnx.ModelProto, kind: onnx.TypeProto) -> None:
    model.graph.input[0].type.CopyFrom(kind)


FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 4])

DIFFERENT: dict[str, Change] = {
    # Those of the case
    "sparse values": lambda m: set_array(m.graph.sparse_initializer[0].values, np.float32([1, 7])),
    "sparse indices": lambda m: set_array(m.graph.sparse_initializer[0].indices, np.int64([0, 6])),
    "constant in a branch": lambda m: set_array(branch(m).initializer[0], np.float32([2.5])),
    "operator in a branch": lambda m: setattr(branch(m, "else_branch").node[0], "op_type", "Abs"),
    "branches swapped": lambda m: [
        setattr(attribute, "name", name)
        for attribute, name in zip(m.graph.node[2].attribute, ("then_branch", "else_branch"), strict=True)
    ],
    "function body": lambda m: setattr(m.functions[0].node[1], "op_type", "Add"),
    "maximum becomes minimum": lambda m: m.graph.node[3].input.__setitem__(slice(None), ["i", "hi"]),
    "domain of an operator": lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"),
    "type of an input": lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
    "overridable input": lambda m: m.graph.input.append(value("W", [4, 4])),
    "weight": lambda m: set_array(m.graph.initializer[0], np.ones((4, 4), np.float32)),
    "NaN for a number": lambda m: set_array(m.graph.initializer[1], np.float32(np.nan)),
    "opset of a function": lambda m: setattr(m.functions[0].opset_import[0], "version", 13),
    "another output": lambda m: m.graph.output.append(value("m", ["N", 4])),
    "additional attribute": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0)),
    "training information": lambda m: setattr(m.training_info.add().algorithm, "name", "t"),
    # More of each kind
    "sparse dims": lambda m: m.graph.sparse_initializer[0].dims.__setitem__(0, 5),
    "operator in a nested branch": lambda m: setattr(inner_gemm(m), "op_type", "MatMul"),
    "attribute in a nested branch": lambda m: setattr(inner_gemm(m).attribute[0], "f", 1.5),
    "weight in a nested branch": lambda m: set_array(
        next(a.g for a in branch(m).node[1].attribute if a.name == "then_branch").initializer[0],
        np.ones((4, 4), np.float32),
    ),
    "captured value": lambda m: branch(m, "else_branch").node[0].input.__setitem__(0, "m"),
    "default of a function's attribute": lambda m: setattr(m.functions[0].attribute_proto[0], "f", 0.25),
    "constant in a function": lambda m: setattr(m.functions[0].node[0].attribute[0], "f", 3.0),
    "type of a constant's attribute": lambda m: m.functions[0].node[0].attribute[0].ClearField("type"),
    "referenced attribute": lambda m: setattr(m.functions[0].node[2].attribute[0], "ref_attr_name", "beta"),
    "attribute overrides a default": lambda m: m.graph.node[4].attribute.append(helper.make_attribute("alpha", 0.1)),
    "type of an attribute": lambda m: inner_gemm(m).attribute[1].CopyFrom(helper.make_attribute("transB", 1.0)),
    "sign of an attribute's zero": lambda m: setattr(inner_gemm(m).attribute[0], "f", -0.0),
    "sign of a weight's zero": lambda m: set_array(
        m.graph.initializer[0], np.where(np.eye(4) == 1, np.arange(16).reshape(4, 4), -0.0).astype(np.float32)
    ),
    "4-bit value": lambda m: m.graph.initializer[2].CopyFrom(
        helper.make_tensor("q", TensorProto.INT4, [3], [1, -3, 3])
    ),
    "unsigned 4-bit": lambda m: setattr(m.graph.initializer[2], "data_type", TensorProto.UINT4),
    "opset of the model": lambda m: setattr(m.opset_import[0], "version", 20),
    "unknown field of a node": lambda m: add_field(m.graph.node[0], 100),
    "unknown field of a nested attribute": lambda m: add_field(inner_gemm(m).attribute[0], 100),
    "unknown field of a tensor": lambda m: add_field(m.graph.initializer[0], 99),
    "unknown field of the model": lambda m: add_field(m, 99),
    "name of an output": lambda m: (
        setattr(m.graph.output[0], "name", "y2"),
        m.graph.node[4].output.__setitem__(0, "y2"),
    ),
    "shape of an output": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 5),
    "symbol that looks like a number": lambda m: setattr(
        m.graph.output[1].type.tensor_type.shape.dim[0], "dim_param", "3"
    ),
    "sequence": lambda m: set_input_type(m, helper.make_sequence_type_proto(FLOATS)),
    "optional": lambda m: set_input_type(m, helper.make_optional_type_proto(FLOATS)),
    "map": lambda m: set_input_type(m, helper.make_map_type_proto(TensorProto.INT64, FLOATS)),
    "sparse type": lambda m: set_input_type(m, helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["N", 4])),
    "inputs of a node swapped": lambda m: m.graph.node[0].input.__setitem__(slice(None), ["W", "x"]),
    "string attribute behind 64 KiB": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("note", "a" * 70_000)
    ),
}


def rename_inner(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == "m" else name for name in names]


def constant_for_initializer(model: onnx.ModelProto) -> None:
    kept = model.graph.initializer[1]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["hi"], value=kept))
    del model.graph.initializer[1]


def unpacked(model: onnx.ModelProto) -> None:
    """Write the indices as numbers, each with a tag of its own, as a writer without packing does."""
    indices = model.graph.sparse_initializer[0].indices
    indices.ClearField("raw_data")
    indices.MergeFromString(b"".join(bytes([7 << 3, number]) for number in (0, 5)))


def padding(model: onnx.ModelProto) -> None:
    packed = model.graph.initializer[2]
    raw = numpy_helper.to_array(packed)
    assert raw.shape == (3,)
    packed.ClearField("int32_data")
    packed.raw_data = bytes([0xE1, 0x73])  # 1, -2, 3, and four bits of nothing


EQUAL: dict[str, Change] = {
    "names of nodes": lambda m: setattr(m.graph.node[0], "name", "other"),
    "names of values": rename_inner,
    "order of nodes": lambda m: m.graph.node.insert(0, m.graph.node.pop(5)),
    "order of weights": lambda m: m.graph.initializer.reverse(),
    "ai.onnx for the empty domain": lambda m: [
        setattr(n, "domain", "ai.onnx") for n in (m.graph.node[0], inner_gemm(m))
    ],
    "ai.onnx in the opset imports": lambda m: setattr(m.opset_import[0], "domain", "ai.onnx"),
    "quantization annotation": lambda m: setattr(m.graph.quantization_annotation.add(), "tensor_name", "m"),
    "metadata of a node": lambda m: m.graph.node[0].metadata_props.add(key="a", value="b"),
    "documentation": lambda m: setattr(m.graph, "doc_string", "text"),
    "producer": lambda m: setattr(m, "producer_name", "somebody"),
    "unused weight": lambda m: m.graph.initializer.append(tensor("unused", np.ones(3, np.float32))),
    "unused opset": lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)),
    "Constant node": constant_for_initializer,
    "unpacked numbers": unpacked,
    "bits behind the last 4-bit value": padding,
    "type hints of inner values": lambda m: m.graph.value_info.append(value("m", ["N", 4])),
}


def pair(folder: Path, change: Change) -> tuple[Path, Path]:
    one, two = base(), base()
    change(two)
    (folder / "a.onnx").write_bytes(one.SerializeToString())
    (folder / "b.onnx").write_bytes(two.SerializeToString())
    return folder / "a.onnx", folder / "b.onnx"


def test_a_model_equals_itself(tmp_path: Path) -> None:
    found = told(*pair(tmp_path, lambda model: model))
    assert (found["same"], found["identical"], found["other"]) == (True, True, {})


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_change_of_what_is_computed_or_offered_is_seen(tmp_path: Path, name: str) -> None:
    a, b = pair(tmp_path, DIFFERENT[name])
    found = told(a, b)
    assert not found["same"]
    assert not told(b, a)["same"]
    code, out, _ = diff("--exit-code", a, b)
    assert code == 1
    assert "equal" not in out.partition("Weights:")[0]


@pytest.mark.parametrize("name", EQUAL)
def test_a_change_that_changes_no_answer_is_equal(tmp_path: Path, name: str) -> None:
    found = told(*pair(tmp_path, EQUAL[name]))
    assert found["same"]
    assert not found["identical"]


def test_what_does_not_change_an_answer_is_listed_nevertheless(tmp_path: Path) -> None:
    a, b = pair(tmp_path, EQUAL["quantization annotation"])
    assert "quantization annotations" in told(a, b)["other"]
    assert "quantization annotations: added" in diff(a, b)[1]
    assert "Overridable inputs changed" in diff(*pair(tmp_path, DIFFERENT["overridable input"]))[1]
    assert "S (sparse indices)" in diff(*pair(tmp_path, DIFFERENT["sparse indices"]))[1]


def test_external_data_counts_by_content(tmp_path: Path) -> None:
    onnx.save(base(), tmp_path / "inside.onnx")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        onnx.save(
            base(), tmp_path / name / "m.onnx", save_as_external_data=True, location=f"{name}.bin", size_threshold=0
        )
    assert told(tmp_path / "one/m.onnx", tmp_path / "two/m.onnx")["same"]
    assert told(tmp_path / "inside.onnx", tmp_path / "two/m.onnx")["same"]
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    data = bytearray((tmp_path / "three/one.bin").read_bytes())
    data[7] ^= 1
    (tmp_path / "three/one.bin").write_bytes(data)
    found = told(tmp_path / "one/m.onnx", tmp_path / "three/m.onnx")
    assert (found["same"], found["identical"]) == (False, False)
    (tmp_path / "three/one.bin").unlink()
    found = told(tmp_path / "one/m.onnx", tmp_path / "three/m.onnx")
    assert (found["same"], found["identical"]) == (False, False)
    assert "one.bin" in found["notes"][0]


def test_messages_that_occur_twice_are_merged(tmp_path: Path) -> None:
    """protobuf merges a singular message that occurs twice; of two ``raw_data`` the last one counts."""

    def message(number: int, content: bytes) -> bytes:
        length, encoded = len(content), bytearray()
        while length > 0x7F:
            encoded.append((length & 0x7F) | 0x80)
            length >>= 7
        return bytes([number << 3 | 2, *encoded, length]) + content

    model = base()
    weight = model.graph.initializer.pop(0)
    first = onnx.TensorProto(raw_data=bytes(64)).SerializeToString()
    split = model.SerializeToString() + message(7, message(5, first + weight.SerializeToString()))
    assert onnx.load_from_string(split).graph.initializer[-1].raw_data != bytes(64)
    (tmp_path / "a.onnx").write_bytes(base().SerializeToString())
    (tmp_path / "b.onnx").write_bytes(split)
    assert told(tmp_path / "a.onnx", tmp_path / "b.onnx")["same"]
    swapped = model.SerializeToString() + message(7, message(5, weight.SerializeToString() + first))
    (tmp_path / "b.onnx").write_bytes(swapped)
    assert not told(tmp_path / "a.onnx", tmp_path / "b.onnx")["same"]


def test_two_random_nodes_are_not_one(tmp_path: Path) -> None:
    def model(shared: bool) -> onnx.ModelProto:
        nodes = [helper.make_node("RandomNormal", [], [name], shape=[2]) for name in ("a", "b")]
        nodes.append(helper.make_node("Sub", ["a", "a" if shared else "b"], ["y"]))
        graph = helper.make_graph(nodes, "g", [], [value("y", [2])])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    onnx.save(model(True), tmp_path / "a.onnx")
    onnx.save(model(False), tmp_path / "b.onnx")
    assert not told(tmp_path / "a.onnx", tmp_path / "b.onnx")["same"]
