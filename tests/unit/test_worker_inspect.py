"""What ortforge reads out of a model file, and which files it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ortforge.runtime.supervisor import JobOutcome
from ortforge.worker.inspect_model import inspect
from ortforge.worker.protocol import JobError

Supervise = Callable[..., JobOutcome]
FLOAT = TensorProto.FLOAT
value = helper.make_tensor_value_info


def a_model() -> onnx.ModelProto:
    weight = np.arange(600, dtype=np.float32).reshape(3, 200)
    then = helper.make_graph([helper.make_node("Relu", ["h"], ["t"])], "then", [], [value("t", FLOAT, None)])
    other = helper.make_graph([helper.make_node("Neg", ["h"], ["t"])], "else", [], [value("t", FLOAT, None)])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
        ],
        "g",
        [value("x", FLOAT, ["batch", 3]), value("flag", TensorProto.BOOL, []), value("w", FLOAT, [3, 200])],
        [value("y", FLOAT, None)],
        initializer=[numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")
    helper.set_model_props(model, {"author": "us"})
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(a_model(), str(folder / "model.onnx"))
    return folder / "model.onnx"


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """The same model with its weight in a file beside it."""
    folder = tmp_path / "external"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(a_model(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def relocate(path: Path, location: str, **changes: str) -> None:
    """Make the model's external weights point elsewhere."""
    proto = onnx.load(str(path), load_external_data=False)
    for tensor in proto.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data} | {"location": location} | changes
        del tensor.external_data[:]
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text)
    path.write_bytes(proto.SerializeToString())


def test_a_model_is_described(supervise: Supervise, model: Path) -> None:
    result = supervise({"op": "inspect", "model": str(model), "root": str(model.parent)}).result
    assert result["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["batch", 3]},
        {"name": "flag", "dtype": "bool", "shape": []},
    ]
    assert result["outputs"][0]["name"] == "y"
    assert result["ops"] == {"MatMul": 1, "If": 1, "Relu": 1, "Neg": 1}
    assert result["nodes"] == 4
    assert result["initializers_bytes"] == 2400
    assert result["opsets"] == {"": 17}
    assert result["ir_version"] == 8
    assert result["metadata"] == {"author": "us"}
    assert result["producer"] == "tests"
    assert result["external"] == []


def test_numbers_newer_than_any_runtime_are_reported_not_refused(model: Path) -> None:
    proto = onnx.load(str(model))
    proto.ir_version = 99
    proto.opset_import[0].version = 98
    model.write_bytes(proto.SerializeToString())
    found = inspect(model, model.parent)
    assert (found["ir_version"], found["opsets"]) == (99, {"": 98})


def test_an_ort_format_model_tells_what_a_session_tells(supervise: Supervise, model: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(model.with_suffix(".ort"))
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    result = supervise({"op": "inspect", "model": str(model.with_suffix(".ort")), "root": str(model.parent)}).result
    assert result["inputs"][0] == {"name": "x", "dtype": "float32", "shape": ["batch", 3]}
    assert result["ops"] == {}
    assert result["ir_version"] is None


# The digest says whether two files compute the same


def digest_of(path: Path) -> str:
    return str(inspect(path, path.parent)["digest"])


def changed(model: Path, change: Callable[[onnx.ModelProto], Any]) -> Path:
    proto = onnx.load(str(model))
    change(proto)
    path = model.with_name("changed.onnx")
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: helper.set_model_props(proto, {"author": "someone else"}),
        lambda proto: setattr(proto, "producer_name", "another tool"),
        lambda proto: setattr(proto.graph.node[0], "doc_string", "an explanation"),
        lambda proto: proto.graph.value_info.append(value("h", FLOAT, ["batch", 200])),
    ],
)
def test_what_does_not_compute_does_not_change_the_digest(
    model: Path, change: Callable[[onnx.ModelProto], Any]
) -> None:
    assert digest_of(changed(model, change)) == digest_of(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: setattr(proto.graph.node[0], "op_type", "Gemm"),
        lambda proto: setattr(proto.opset_import[0], "version", 16),
        lambda proto: proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((3, 200), "f4"), "w")),
        lambda proto: setattr(proto.graph.node[1].attribute[0].g.node[0], "op_type", "Abs"),
    ],
)
def test_what_computes_changes_the_digest(model: Path, change: Callable[[onnx.ModelProto], Any]) -> None:
    assert digest_of(changed(model, change)) != digest_of(model)


def test_where_the_weights_lie_does_not_matter_and_their_values_do(model: Path, external: Path) -> None:
    before = digest_of(external)
    assert before == digest_of(model)
    weights = external.parent / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[7] ^= 1
    weights.write_bytes(data)
    assert digest_of(external) != before


# External data


def test_external_files_are_listed(external: Path) -> None:
    found = inspect(external, external.parent)
    assert found["external"] == ["weights.bin"]
    assert found["initializers_bytes"] == 2400


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/etc/passwd", "leaves the model's folder"),
        ("../model/weights.bin", "leaves the model's folder"),
        ("sub/../../weights.bin", "leaves the model's folder"),
        ("C:\\weights.bin", "leaves the model's folder"),
        ("..\\weights.bin", "leaves the model's folder"),
        ("", "names no file"),
        ("missing.bin", "missing"),
        (".", "missing"),
    ],
)
def test_external_data_must_be_a_file_inside_the_folder(
    supervise: Supervise, external: Path, location: str, words: str
) -> None:
    relocate(external, location)
    with pytest.raises(JobError) as refused:
        inspect(external, external.parent)
    assert refused.value.kind == ("refused" if "leaves" in words else "model")
    assert words in refused.value.message


def test_links_out_of_the_folder_are_refused_and_links_inside_are_not(external: Path, tmp_path: Path) -> None:
    weights = external.parent / "weights.bin"
    secret = tmp_path / "secret.bin"
    secret.write_bytes(weights.read_bytes())
    weights.rename(external.parent / "real.bin")
    weights.symlink_to("real.bin")
    assert inspect(external, external.parent)["external"] == ["weights.bin"]
    weights.unlink()
    weights.symlink_to(secret)
    with pytest.raises(JobError, match="a link out of the model's folder"):
        inspect(external, external.parent)


def test_a_truncated_weights_file_is_found_before_it_kills_a_runtime(external: Path) -> None:
    os.truncate(external.parent / "weights.bin", 1000)
    with pytest.raises(JobError, match="which has only 1000"):
        inspect(external, external.parent)


@pytest.mark.parametrize("offset", ["-5", "many"])
def test_an_offset_that_is_none(external: Path, offset: str) -> None:
    relocate(external, "weights.bin", offset=offset)
    with pytest.raises(JobError, match="offset"):
        inspect(external, external.parent)


# Damaged files


def test_files_that_are_no_models(supervise: Supervise, model: Path) -> None:
    data = model.read_bytes()
    damaged = {"empty": b"", "half": data[: len(data) // 2], "text": b"<html>404 not found</html>"}
    for name, content in damaged.items():
        path = model.with_name(f"{name}.onnx")
        path.write_bytes(content)
        outcome = supervise({"op": "inspect", "model": str(path), "root": str(model.parent)})
        assert (outcome.status, outcome.kind) == ("failed", "model"), outcome
        assert path.name in outcome.reason
    missing = supervise({"op": "inspect", "model": str(model.with_name("no.onnx")), "root": str(model.parent)})
    assert missing.kind == "model"


MODEL_BYTES = a_model().SerializeToString()


@settings(max_examples=300, deadline=None)
@given(
    positions=st.lists(st.tuples(st.integers(0, len(MODEL_BYTES) - 1), st.integers(0, 255)), max_size=8),
    end=st.integers(0, len(MODEL_BYTES)),
)
def test_a_mutated_file_is_described_or_refused(
    tmp_path_factory: pytest.TempPathFactory, positions: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(MODEL_BYTES)
    for position, byte in positions:
        data[position] = byte
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(data[:end])
    try:
        found = inspect(path, path.parent)
    except JobError as refused:
        assert refused.kind == "model"
        assert refused.message
    else:
        assert found["nodes"] >= 0
