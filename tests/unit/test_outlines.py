"""Models without their weights: what is read, what is left where it lies, and that nothing is lost on the way back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from .pass_jobs import helper_module, picture_model, pictures

outlines = helper_module("_models.outlines")
ort_graph = helper_module("_models.ort_graph")
wire = helper_module("_models.wire")


def products(*sizes: int, metadata: bool = True) -> onnx.ModelProto:
    """A chain of products, one weight for each size, and a table of whole numbers beside them."""
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(size=(size, size)).astype(np.float32), f"w{n}")
        for n, size in enumerate(sizes)
    ]
    nodes = [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"], name=f"n{n}") for n in range(len(sizes))]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(f"x{len(sizes)}", TensorProto.FLOAT, None)],
        [*weights, numpy_helper.from_array(np.arange(1000), "places")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        model.metadata_props.add(key="licence", value="ours")
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(products(32, 4, 64), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_an_outline_has_everything_but_large_weights(path: Path) -> None:
    model, whole = outlines.outline_of(path), onnx.load(path)
    held = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    assert held == {"w0": 0, "w1": 64, "w2": 0, "places": 8000}, "whole numbers may be shapes, and stay"
    for tensor in (*model.graph.initializer, *whole.graph.initializer):
        tensor.ClearField("raw_data")
    assert model == whole


def test_weights_are_found_by_name_where_they_lie(path: Path) -> None:
    found, whole = outlines.read(path), onnx.load(path)
    assert set(found.weights) == {"w0", "w2"}
    for tensor in whole.graph.initializer:
        if tensor.name in found.weights:
            assert bytes(found.weights[tensor.name]) == tensor.raw_data


def test_weights_in_a_file_of_their_own_are_found_too(path: Path) -> None:
    whole = onnx.load(path)
    beside = path.with_name("beside.onnx")
    onnx.save(onnx.load(path), beside, save_as_external_data=True, location="beside.data", size_threshold=1024)
    assert outlines.outline_of(beside).graph.initializer[0].external_data, "an outline does not look at them"
    found = outlines.read(beside)
    assert bytes(found.weights["w2"]) == whole.graph.initializer[2].raw_data


@given(sizes=st.lists(st.integers(1, 40), max_size=6), metadata=st.booleans())
def test_what_is_saved_whole_is_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], metadata: bool
) -> None:
    folder = tmp_path_factory.mktemp("outline")
    whole = products(*sizes, metadata=metadata)
    onnx.save(whole, folder / "model.onnx")
    outlines.save(outlines.read(folder / "model.onnx"), folder / "again.onnx", ir_version=8)
    assert onnx.load(folder / "again.onnx") == whole
    shutil.rmtree(folder)


def test_changed_weights_and_nodes_are_saved(path: Path) -> None:
    found = outlines.read(path)
    found.model.graph.node[0].name = "renamed"
    changed = outlines.Outline(found.model, {**found.weights, "w0": bytes(4 * 32 * 32)})
    outlines.save(changed, path.with_name("changed.onnx"), ir_version=8)
    model = onnx.load(path.with_name("changed.onnx"))
    assert model.graph.node[0].name == "renamed"
    assert not numpy_helper.to_array(model.graph.initializer[0]).any()
    assert numpy_helper.to_array(model.graph.initializer[2]).any()


def test_weights_are_written_beside_a_model_that_stays_as_it_is(path: Path) -> None:
    model = onnx.load(path)
    apart = path.with_name("apart.onnx")
    outlines.save_apart(outlines.Outline(model, {}), apart, ir_version=8)
    assert model == onnx.load(path)
    assert apart.stat().st_size < 12_000 < apart.with_name("apart.onnx.data").stat().st_size
    again = onnx.load(apart)
    for tensor in again.graph.initializer:
        tensor.ClearField("data_location")
    assert again == model


def test_an_outline_is_written_with_its_weights_beside_it(path: Path) -> None:
    found = outlines.read(path)
    outlines.save_apart(found, path.with_name("apart.onnx"), ir_version=8)
    assert found.model == outlines.outline_of(path)
    left, right = (onnx.load(one).graph.initializer[0] for one in (path, path.with_name("apart.onnx")))
    np.testing.assert_array_equal(numpy_helper.to_array(left), numpy_helper.to_array(right))


@pytest.mark.parametrize("kept", [10, 5000, 20000])
def test_a_file_that_was_cut_off_is_a_plain_sentence(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cannot be read as an ONNX model .* truncated"):
        outlines.outline_of(path)


def test_something_that_is_no_model_is_a_plain_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("not a model", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be read as an ONNX model"):
        outlines.read(tmp_path / "model.onnx")


def test_orts_own_format_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ORT's own format, which no pass can read back"):
        outlines.outline_of(tmp_path / "model.ort")


@pytest.mark.parametrize("graph_first", [True, False])
def test_what_follows_the_graph_is_written_anew_without_touching_the_weights(tmp_path: Path, graph_first: bool) -> None:
    path = tmp_path / "model.onnx"
    whole = products(64)
    parts = onnx.ModelProto(graph=whole.graph).SerializeToString(), onnx.ModelProto()
    parts[1].CopyFrom(whole)
    parts[1].ClearField("graph")
    rest = parts[1].SerializeToString()
    path.write_bytes(parts[0] + rest if graph_first else rest + parts[0])
    model = outlines.outline_of(path)
    ort_graph.put_stamp(model, {"level": "all"})
    ort_graph.save_all_but_graph(model, path)
    again = onnx.load(path)
    assert again.graph == whole.graph
    assert ort_graph.stamp_in(again) == {"level": "all"}
    assert [entry.key for entry in again.metadata_props] == ["licence", "ortforge.stamp"]
    assert len(again.opset_import) == 1


def test_a_real_model_answers_the_same_after_both_ways(tmp_path: Path) -> None:
    import onnxruntime as ort

    onnx.save(picture_model(), tmp_path / "model.onnx")
    found = outlines.read(tmp_path / "model.onnx")
    outlines.save(found, tmp_path / "whole.onnx", ir_version=8)
    outlines.save_apart(found, tmp_path / "apart.onnx", ir_version=8)
    feed = pictures(1)[0][0]
    answers = [
        ort.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for name in ("model.onnx", "whole.onnx", "apart.onnx")
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.parametrize("data", [b"\x0b", b"\x3a\x05ab", b"\x80\x80", b"\x09\x01"])
def test_bytes_that_are_no_fields_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte \d"):
        list(wire.fields(memoryview(data), 0, len(data)))
