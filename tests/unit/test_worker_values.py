"""Values of every type through a worker: narrow element types, strings, sequences, maps and optionals, in and out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ortforge.runtime.supervisor import JobOutcome
from ortforge.verdict.structure import structure_problems
from ortforge.worker.narrow_types import NARROW, decode, encode, to_nearest
from ortforge.worker.samples import Samples, SampleWriter
from ortforge.worker.structure import type_name

from .pass_jobs import FOLDER
from .test_worker_run import Run, Supervise, run, save, value

__all__ = ["run"]  # the fixture

FLOAT = TensorProto.FLOAT
ML_DTYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8e8m0": ml_dtypes.float8_e8m0fnu,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
    "uint4": ml_dtypes.uint4,
    "int4": ml_dtypes.int4,
    "uint2": ml_dtypes.uint2,
    "int2": ml_dtypes.int2,
}
VALUES = {
    "bfloat16": [1.0, -2.5, 3.3895314e38, 0.0, np.inf, np.nan],
    "float8e4m3fn": [1.0, 448.0, -0.001953125, 0.0, -0.0, np.nan],
    "float8e4m3fnuz": [1.0, 240.0, -0.0009765625, 0.0, 2.0, np.nan],
    "float8e5m2": [1.0, 57344.0, -3.5, 0.0, -0.25, np.nan],
    "float8e5m2fnuz": [1.0, 57344.0, -3.5, 0.0, 0.25, np.nan],
    "float8e8m0": [1.0, 2.0**127, 2.0**-127, 0.5, 4.0, np.nan],
    "uint4": [0, 15, 7, 1, 2],  # an odd number: the last byte is half empty
    "int4": [0, -8, 7, -1, 2],
    "uint2": [0, 3, 1, 2, 1],
    "int2": [0, -2, 1, -1, 1],
}
OPSETS = {16: 13, 17: 19, 18: 19, 19: 19, 20: 19, 21: 21, 22: 21, 24: 24, 25: 25, 26: 25}
IR_VERSIONS = {13: 8, 19: 9, 21: 10, 24: 11, 25: 13}


# Narrow types


def raw_values(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return every code of a type as bytes, and its values by the package ml_dtypes."""
    count = 1 << NARROW[name].bits
    codes = np.arange(count, dtype=np.uint16 if name == "bfloat16" else np.uint8)
    return codes, codes.view(ML_DTYPES[name]).astype(np.float32)


@pytest.mark.parametrize("name", sorted(ML_DTYPES))
def test_every_code_of_a_narrow_type_means_what_onnx_says(name: str) -> None:
    codes, expected = raw_values(name)
    packed = codes.tobytes() if NARROW[name].bits >= 8 else packed_by_hand(codes, NARROW[name].bits)
    values = decode(packed, codes.shape, name)
    np.testing.assert_array_equal(values.astype(np.float32), expected)
    again = decode(encode(values, name), codes.shape, name)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(np.signbit(again[~np.isnan(expected)]), np.signbit(values[~np.isnan(expected)]))


def packed_by_hand(codes: np.ndarray, bits: int) -> bytes:
    text = "".join(format(int(code), f"0{bits}b")[::-1] for code in codes)  # the first element in the lowest bits
    return bytes(int(text[start : start + 8][::-1], 2) for start in range(0, len(text), 8))


@pytest.mark.parametrize("name", [name for name, narrow in NARROW.items() if narrow.stored == "float32"])
def test_values_are_rounded_as_others_round_them(name: str) -> None:
    _, table = raw_values(name)
    finite = np.unique(table[np.isfinite(table)])
    drawn = np.random.default_rng(3).choice(finite, 2000).astype(np.float64)
    drawn *= np.random.default_rng(4).uniform(0.9, 1.1, drawn.shape)
    ties = (finite[:-1].astype(np.float64) + finite[1:]) / 2
    wide = np.concatenate([drawn, ties] if name != "float8e8m0" else [drawn])
    wide = wide[(wide >= finite.min()) & (wide <= finite.max())].astype(np.float32)
    if name == "float8e8m0":  # ml_dtypes rounds subnormal numbers of float32 in another way
        wide = wide[wide > 2e-38]
    if name == "bfloat16":
        wide = wide[np.isfinite(wide.astype(ML_DTYPES[name]).astype(np.float32))]
    np.testing.assert_array_equal(to_nearest(wide, name), wide.astype(ML_DTYPES[name]).astype(np.float32))


@pytest.mark.parametrize(("name", "wrong"), [("float8e4m3fn", 500.0), ("int4", 8), ("uint2", -1), ("float8e8m0", 0.0)])
def test_values_outside_a_narrow_type_are_refused(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="does not fit into"):
        to_nearest(np.array([1, wrong]), name)
    with pytest.raises(ValueError, match="is not a value of"):
        encode(np.array([1, wrong]), name)


def identity(path: Path, name: str) -> Path:
    """A model that returns an input of a narrow type, and the input as float32."""
    kind = NARROW[name].onnx
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=FLOAT), helper.make_node("Cast", ["y"], ["z"], to=kind)]
    opset = OPSETS[kind]
    outputs = [value("z", kind, ["N"]), value("y", FLOAT, ["N"])]
    return save(path, nodes, [value("x", kind, ["N"])], outputs, opset=opset, ir=IR_VERSIONS[opset])


@pytest.mark.parametrize("name", sorted(VALUES))
def test_narrow_types_go_in_and_come_out(run: Run, tmp_path: Path, name: str) -> None:
    feed = np.array(VALUES[name], NARROW[name].stored)
    outcome = run(identity(tmp_path / "m.onnx", name), [{"x": feed}])
    assert outcome.status == "ok", outcome.reason
    kept = Samples(tmp_path / "outputs")
    assert kept.types == {"z": name, "y": "float32"}
    assert kept[0]["z"].dtype == feed.dtype
    np.testing.assert_array_equal(kept[0]["z"], feed)
    np.testing.assert_array_equal(kept[0]["y"], feed.astype(np.float32))


def test_a_value_that_is_not_exact_is_refused_with_the_nearest_one(run: Run, tmp_path: Path) -> None:
    outcome = run(identity(tmp_path / "m.onnx", "bfloat16"), [{"x": np.float32([0.1])}])
    assert outcome.status == "failed"
    assert "input 'x' does not fit: 0.1" in outcome.reason and "is not a value of bfloat16" in outcome.reason


@pytest.mark.parametrize("name", ["bfloat16", "int4"])
def test_narrow_types_are_timed(supervise_time: Callable[[Path, Path], list[int]], tmp_path: Path, name: str) -> None:
    writer = SampleWriter(tmp_path / "samples")
    writer.write({"x": np.array(VALUES[name], NARROW[name].stored)})
    writer.close()
    ns = supervise_time(identity(tmp_path / "m.onnx", name), tmp_path / "samples")
    assert len(ns) == 3 and min(ns) > 0


@pytest.fixture
def supervise_time(worker_folder: Path, tmp_path: Path) -> Callable[[Path, Path], list[int]]:
    """Take one turn of three iterations in a ``time`` job."""
    import sys

    from ortforge.runtime.supervisor import Interpreter, Limits, WorkerSession

    def time_model(model: Path, samples: Path) -> list[int]:
        job = {
            "op": "time",
            "model": str(model),
            "samples": str(samples),
            "ep": "cpu",
            "providers": [["CPUExecutionProvider", {}]],
            "session": {"intra_op_threads": 1},
        }
        interpreter = Interpreter.local(Path(sys.executable), worker=worker_folder)
        (tmp_path / "time").mkdir()
        with WorkerSession(interpreter, job, limits=Limits(memory=2 << 30), workdir=tmp_path / "time") as session:
            return list(session.ask({"op": "turn", "iterations": 3, "discard": 1}, 60.0)["ns"])

    return time_model


# Sequences, maps, optionals, strings

SEQUENCE = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
OPTIONAL = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["N"]))
INT_MAP = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
NAMED_MAP = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, []))


def typed_feeds(folder: Path, model: Path, feeds: Sequence[Mapping[str, Any]]) -> Path:
    """Write samples as a dataset's step does: with the model's types."""
    session = onnx.load(str(model)).graph
    types = {entry.name: kind_of(entry.type) for entry in session.input}
    writer = SampleWriter(folder, types=types)
    for feed in feeds:
        writer.write(feed)
    writer.close()
    return folder


def kind_of(proto: onnx.TypeProto) -> str:
    from ortforge.worker.inspect_model import _type_name

    return type_name(_type_name(proto))


def answers(supervise: Supervise, tmp_path: Path, model: Path, feeds: Sequence[Mapping[str, Any]]) -> JobOutcome:
    return supervise(
        {
            "op": "run",
            "model": str(model),
            "samples": str(typed_feeds(tmp_path / f"in-{model.stem}", model, feeds)),
            "ep": "cpu",
            "providers": [["CPUExecutionProvider", {}]],
            "session": {"graph_optimization_level": "disable", "intra_op_threads": 1},
            "output": str(tmp_path / f"out-{model.stem}"),
            "placement": False,
        }
    )


def sequences(path: Path, *, doubled: bool = False) -> Path:
    """A sequence goes in and comes out, with a tensor that is called like its second element."""
    nodes = [helper.make_node("SequenceLength", ["x"], ["y[1]"])]
    source = "x"
    if doubled:
        nodes += [
            helper.make_node("Constant", [], ["zero"], value_int=0),
            helper.make_node("SequenceAt", ["x", "zero"], ["first"]),
            helper.make_node("SequenceInsert", ["x", "first"], ["longer"]),
        ]
        source = "longer"
    nodes.append(helper.make_node("Identity", [source], ["y"]))
    outputs = [helper.make_value_info("y", SEQUENCE), value("y[1]", TensorProto.INT64, [])]
    return save(path, nodes, [helper.make_value_info("x", SEQUENCE)], outputs)


def test_sequences_go_in_and_come_out_of_any_length(supervise: Supervise, tmp_path: Path) -> None:
    model = sequences(tmp_path / "m.onnx")
    feeds = [{"x": [np.float32([1, 2]), np.float32([[3]])]}, {"x": []}]
    outcome = answers(supervise, tmp_path, model, feeds)
    assert outcome.status == "ok", outcome.reason
    kept = Samples(tmp_path / "out-m")
    assert {name: array.tolist() for name, array in kept[0].items()} == {"y'[0]": [1, 2], "y'[1]": [[3]], "y[1]": 2}
    assert kept.structure["y"] == {"type": "seq(tensor(float32))", "samples": [{"length": 2}, {"length": 0}]}
    assert kept.feeds(1)["y"] == [] and int(kept.feeds(1)["y[1]"]) == 0


def test_a_longer_sequence_is_a_problem_of_structure(supervise: Supervise, tmp_path: Path) -> None:
    feeds = [{"x": [np.float32([1, 2])]}, {"x": [np.float32([1, 2]), np.float32([1, 2])]}]
    for model in (sequences(tmp_path / "m.onnx"), sequences(tmp_path / "longer.onnx", doubled=True)):
        assert answers(supervise, tmp_path, model, feeds).status == "ok"
    reference, candidate = Samples(tmp_path / "out-m").structure, Samples(tmp_path / "out-longer").structure
    assert structure_problems(reference, reference) == []
    assert structure_problems(reference, candidate) == [
        'Output "y" has another structure in 2 of 2 samples: in sample 0 it is a sequence of 2 elements instead of '
        "a sequence of 1 elements."
    ]


def test_an_absent_optional_is_not_a_tensor(supervise: Supervise, tmp_path: Path) -> None:
    nodes = [helper.make_node("OptionalHasElement", ["x"], ["h"]), helper.make_node("Identity", ["x"], ["y"])]
    outputs = [value("h", TensorProto.BOOL, []), helper.make_value_info("y", OPTIONAL)]
    model = save(tmp_path / "m.onnx", nodes, [helper.make_value_info("x", OPTIONAL)], outputs, opset=18)
    outcome = answers(supervise, tmp_path, model, [{"x": np.float32([1, 2])}, {"x": None}, {}])
    assert outcome.status == "ok", outcome.reason
    kept = Samples(tmp_path / "out-m")
    assert [bool(sample["h"]) for sample in kept] == [True, False, False]
    assert kept.structure["y"]["samples"] == ["tensor", None, None]
    present = {"y": {**kept.structure["y"], "samples": ["tensor"] * 3}, "h": kept.structure["h"]}
    assert structure_problems(kept.structure, present) == [
        'Output "y" has another structure in 2 of 3 samples: in sample 1 it is a tensor instead of absent.'
    ]


def test_maps_go_in_and_come_out_with_their_keys(supervise: Supervise, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DictVectorizer", ["x"], ["v"], domain="ai.onnx.ml", int64_vocabulary=[3, 5, 7]),
        helper.make_node("ZipMap", ["v"], ["y"], domain="ai.onnx.ml", classlabels_strings=["b", "a", "c"]),
    ]
    outputs = [helper.make_value_info("y", helper.make_sequence_type_proto(NAMED_MAP))]
    model = save(tmp_path / "m.onnx", nodes, [helper.make_value_info("x", INT_MAP)], outputs)
    outcome = answers(supervise, tmp_path, model, [{"x": {3: 1.0, 7: 2.5}}, {"x": {5: -1.0}}])
    assert outcome.status == "ok", outcome.reason
    kept = Samples(tmp_path / "out-m")
    assert kept.feeds(0) == {"y": [{"a": 0.0, "b": 1.0, "c": 2.5}]}
    assert kept.structure["y"]["samples"][0] == {"length": 1, "keys": [["a", "b", "c"]]}
    assert json.loads((tmp_path / "out-m" / "index.json").read_text())["keys"] == [["a", "b", "c"]]
    assert Samples(tmp_path / "in-m").feeds(1) == {"x": {5: -1.0}}
    other = {"y": {"type": kept.structure["y"]["type"], "samples": [{"length": 1, "keys": [["a", "b", "d"]]}] * 2}}
    assert structure_problems(kept.structure, other) == [
        'Output "y" has another structure in 2 of 2 samples: in sample 0 it is a sequence with a map of 3 keys '
        "(a, b, d) instead of a sequence with a map of 3 keys (a, b, c)."
    ]


@pytest.mark.parametrize(
    ("candidate", "problem"),
    [
        ({}, ""),
        ({"y": {"type": "float16"}}, 'Output "y" has type float16 instead of bfloat16.'),
        ({"z": {"type": "bfloat16"}, "y": {"type": "bfloat16"}}, 'Output "z" is additional'),
        ({"z": {"type": "bfloat16"}}, 'Output "y" is missing.'),
    ],
)
def test_types_and_names_are_part_of_the_structure(candidate: dict[str, Any], problem: str) -> None:
    problems = structure_problems({"y": {"type": "bfloat16"}}, candidate)
    assert any(problem in sentence for sentence in problems) if problem else problems == []


def test_what_is_not_a_sequence_is_refused(supervise: Supervise, tmp_path: Path) -> None:
    outcome = answers(supervise, tmp_path, sequences(tmp_path / "m.onnx"), [{"x": np.float32([1, 2])}])
    assert outcome.status == "failed"
    assert "input 'x' does not fit (not a list of arrays)" in outcome.reason
    assert "the model wants seq(tensor(float32)), and sample 0 gives float32 [2]" in outcome.reason


def test_bfloat16_and_a_sequence_from_one_model(supervise: Supervise, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
    ]
    outputs = [helper.make_value_info("s", SEQUENCE), value("b", TensorProto.BFLOAT16, ["N"])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", FLOAT, ["N"])], outputs)
    outcome = answers(supervise, tmp_path, model, [{"x": np.float32([1, 2])}])
    assert outcome.status == "ok", outcome.reason
    kept = Samples(tmp_path / "out-m").feeds(0)
    assert kept["b"].tolist() == [1, 2] and [item.tolist() for item in kept["s"]] == [[1, 2], [1, 2]]


def test_what_the_python_api_cannot_pass_is_unsupported_at_once(supervise: Supervise, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["b"], ["y"], to=FLOAT),
        helper.make_node("Identity", ["b"], ["z"]),
        helper.make_node("Identity", ["s"], ["t"]),
    ]
    kinds = [value("b", TensorProto.BFLOAT16, ["N"]), helper.make_value_info("s", SEQUENCE)]
    outputs = [value("y", FLOAT, ["N"]), value("z", TensorProto.BFLOAT16, ["N"]), helper.make_value_info("t", SEQUENCE)]
    feeds = [{"b": np.float32([1, 2]), "s": []}]
    refused = answers(supervise, tmp_path, save(tmp_path / "m.onnx", nodes, kinds, outputs), feeds)
    assert refused.status == "unsupported"
    assert "output 'z' is bfloat16 and input 's' is seq(tensor(float32))" in refused.reason
    taken = save(tmp_path / "n.onnx", nodes, kinds, [outputs[0], outputs[2]])
    assert answers(supervise, tmp_path, taken, feeds).status == "ok"


# A model that differs from itself


def dropout(path: Path, *, training: bool) -> Path:
    constants = [
        onnx.numpy_helper.from_array(np.float32(0.5).reshape(()), "ratio"),
        onnx.numpy_helper.from_array(np.array(training), "training"),
    ]
    nodes = [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"], name="drop")]
    return save(path, nodes, [value("x", FLOAT, ["N"])], [value("y", FLOAT, ["N"])], initializers=constants)


def normal(path: Path) -> Path:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise", scale=0.01),
        helper.make_node("Add", ["x", "r"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    return save(path, nodes, [value("x", FLOAT, ["N"])], [value("y", FLOAT, ["N"]), value("z", FLOAT, ["N"])])


@pytest.mark.parametrize("make", [lambda path: dropout(path, training=True), normal])
def test_a_model_that_differs_from_itself_is_noticed(run: Run, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    feeds = [{"x": np.linspace(-1, 1, 200, dtype=np.float32)} for _ in range(3)]
    outcome = run(make(tmp_path / "m.onnx"), feeds, repeat=2)
    assert outcome.status == "ok", outcome.reason
    told = outcome.result["self_difference"]
    assert (told["samples"], told["repetitions"], set(told["unstable"])) == (2, 2, {"y"})
    assert told["unstable"]["y"]["elements"] > 50
    assert 0.005 < told["unstable"]["y"]["largest"] < 1.5


def test_a_stable_model_does_not_differ_from_itself(run: Run, tmp_path: Path) -> None:
    feeds = [{"x": np.array([1, np.nan, np.inf], np.float32)}]
    outcome = run(dropout(tmp_path / "m.onnx", training=False), feeds, repeat=8)
    assert outcome.result["self_difference"] == {"samples": 1, "repetitions": 2, "unstable": {}}


def test_random_operators_are_named_wherever_they_are(supervise: Supervise, tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("RandomUniform", [], ["u"], name="inner", shape=[2])], "then", [], [value("u", FLOAT, [2])]
    )
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["i"])], "else", [], [value("i", FLOAT, [2])])
    body = [
        helper.make_node("Constant", [], ["on"], value=onnx.numpy_helper.from_array(np.array(True))),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Dropout", ["a", "half", "on"], ["b"], name="in_function"),
    ]
    function = helper.make_function("local", "noisy", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
        helper.make_node("noisy", ["x"], ["z"], domain="local"),
        helper.make_node("Dropout", ["x"], ["w"], name="inference"),
    ]
    inputs = [value("x", FLOAT, [2]), value("c", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [value(name, FLOAT, [2]) for name in "yzw"])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8), tmp_path / "m.onnx")
    found = supervise({"op": "inspect", "model": str(tmp_path / "m.onnx"), "root": str(tmp_path)}).result
    assert found["random_ops"] == [{"name": "inner", "op": "RandomUniform"}, {"name": "in_function", "op": "Dropout"}]
    assert [entry["dtype"] for entry in found["outputs"]] == ["float32"] * 3


@pytest.mark.parametrize("name", ["bfloat16", "float8e4m3fn"])
def test_a_model_with_narrow_inputs_and_outputs_is_quantized_on_its_samples(
    supervise: Supervise, tmp_path: Path, name: str
) -> None:
    kind = NARROW[name].onnx
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], name="in", to=FLOAT),
        helper.make_node("MatMul", ["f", "W"], ["y"], name="product"),
        helper.make_node("Cast", ["y"], ["z"], name="out", to=kind),
    ]
    weight = onnx.numpy_helper.from_array(rng.standard_normal((16, 8)).astype(np.float32), "W")
    outputs = [value("y", FLOAT, ["N", 8]), value("z", kind, ["N", 8])]
    model = save(
        tmp_path / "m.onnx", nodes, [value("x", kind, ["N", 16])], outputs, opset=19, ir=9, initializers=[weight]
    )
    feeds = [{"x": to_nearest(rng.standard_normal((4, 16)).astype(np.float32), name)} for _ in range(4)]
    job = {
        "op": "apply",
        "module": str(FOLDER / "quantize_static.py"),
        "model": str(model),
        "output": str(tmp_path / "made" / "model.onnx"),
        "parameters": {},
        "samples": str(typed_feeds(tmp_path / "calibration", model, feeds)),
        "ep": "cpu",
        "ep_name": "CPUExecutionProvider",
    }
    outcome = supervise(job)
    assert outcome.status == "ok", outcome.reason
    made = onnx.load(str(tmp_path / "made" / "model.onnx"))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in made.graph.node}
    assert not [text for text in outcome.result["details"].get("warnings", ()) if "does not run" in text]
