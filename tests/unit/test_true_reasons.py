"""Reasons that are printed after a failure: each is tried before it is said, and no diagnostic fails a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_jobs import helper_module, job_for, samples_folder

from ortforge.runtime import signals, supervisor
from ortforge.runtime.supervisor import JobOutcome
from ortforge.worker import blame, placement
from ortforge.worker import run as run_job
from ortforge.worker.classify import classify
from ortforge.worker.samples import SampleWriter

FLOAT = TensorProto.FLOAT
value = helper.make_tensor_value_info
Supervise = Callable[..., JobOutcome]
OTHER = "OtherExecutionProvider"


def save(path: Path, nodes: Sequence[onnx.NodeProto], inits: Mapping[str, Any], shape: Sequence[Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, shape)],
        [value("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in inits.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def relu(path: Path) -> Path:
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], {}, ["n", 3])


def wrong_scale(path: Path, axis: int, scales: int) -> Path:
    """A model that loads, and whose scale per channel does not fit its tensor: known only when it runs."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quant", axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequant", axis=axis),
    ]
    inits = {"s": np.full(scales, 0.1, np.float32), "z": np.zeros(scales, np.int8)}
    return save(path, nodes, inits, ["n", "m"])


def samples(folder: Path, *shapes: tuple[int, ...]) -> str:
    writer = SampleWriter(folder)
    for shape in shapes:
        writer.write({"x": np.ones(shape, np.float32)})
    writer.close()
    return str(folder)


# Placement


LINE = (
    '{{"cat" : "Node","pid" :7,"tid" :9,"dur" :12,"ts" :34,"ph" : "X","name" :"{name}_kernel_time",'
    '"args" : {{"output_size" : "64","node_index" : "3","op_name" : "Conv","provider" : "CPUExecutionProvider",'
    '"input_type_shape" : [{{"float":[1,2]}}]}}}},'
)


@pytest.mark.parametrize(
    "name",
    [
        'y"[1]/0',
        "back\\slash\\u12",
        '"op_name" : "Evil","provider" : "Other"',
        "{}{[",
        '","args" : {"op_name" : "Evil"',
        "tab\tand\x01control",
    ],
)
def test_a_profile_with_any_names_in_it_is_read(name: str) -> None:
    session = '{"cat" : "Session","pid" :7,"tid" :9,"dur" :99,"ts" :1,"ph" : "X","name" :"model_run","args" : {}}'
    text = "[\n" + LINE.format(name=name) + "\n" + session + "\n]\n"
    counted = placement.count_events(placement.profile_events(text))
    assert counted.nodes == {"CPUExecutionProvider": 1}
    assert counted.ops["CPUExecutionProvider"] == {"Conv": 1}
    assert counted.time_us == {"CPUExecutionProvider": 12}


def test_what_is_no_profile_gives_no_events() -> None:
    assert list(placement.profile_events("")) == []
    assert list(placement.profile_events("[\n{half an event\n")) == []
    assert list(placement.profile_events('["a string", 3, null]')) == []


def test_a_profile_that_cannot_be_read_leaves_the_placement_of_other_sources(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(relu(tmp_path / "relu.onnx"), options, providers=["CPUExecutionProvider"])
    found = run_job._placed("CPUExecutionProvider", session, tmp_path / "nowhere.json")
    assert found["sources"] == ["assignment"]
    assert found["nodes"] == {"CPUExecutionProvider": 1}
    assert "The profile cannot be read: FileNotFoundError" in found["note"]


def test_without_any_source_the_placement_is_unknown_and_no_error(tmp_path: Path) -> None:
    class Broken:
        def get_provider_graph_assignment_info(self) -> None:
            raise RuntimeError("no such thing")

    found = run_job._placed("CPUExecutionProvider", Broken(), None)
    assert (found["sources"], found["nodes"]) == ([], {})
    assert "assignment of nodes cannot be read: RuntimeError: no such thing" in found["note"]


# Whose fault it is


class InvalidGraphError(Exception):
    """As ORT's InvalidGraph."""


InvalidGraphError.__name__ = "InvalidGraph"


InvalidGraphError.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"
ACYCLIC = InvalidGraphError("This is an invalid model. Error: the graph is not acyclic.")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


def test_the_ep_is_at_fault_where_the_cpu_ep_ran_the_file(tmp_path: Path) -> None:
    data = samples(tmp_path / "data", (2, 3))
    failure = blame.of_the_ep(str(relu(tmp_path / "m.onnx")), OTHER, ACYCLIC, data, {})
    assert failure is not None and failure.kind == "failed"
    assert f"{OTHER} does not load this model, and the CPU EP runs the same file" in failure.message
    assert "at fault and not the model" in failure.message
    assert "dynamically" not in failure.message  # advice for models that are quantized so


@pytest.mark.parametrize(("axis", "scales"), [(1, 5), (0, 4)])
def test_the_ep_is_not_at_fault_where_the_cpu_ep_loads_the_file_and_fails_to_run_it(
    tmp_path: Path, axis: int, scales: int
) -> None:
    data = samples(tmp_path / "data", (2, 3))
    model = wrong_scale(tmp_path / "m.onnx", axis, scales)
    ort.InferenceSession(model, providers=["CPUExecutionProvider"])  # it loads
    failure = blame.of_the_ep(str(model), OTHER, ACYCLIC, data, {})
    assert failure is not None and failure.kind == "model"
    assert f"nothing shows that {OTHER} is at fault" in failure.message
    assert "wrote a scale whose shape does not fit this node's tensor: QuantizeLinear node 'quant'" in failure.message


def test_without_samples_nobody_is_blamed(tmp_path: Path) -> None:
    failure = blame.of_the_ep(str(relu(tmp_path / "m.onnx")), OTHER, ACYCLIC)
    assert failure is not None and "fault" not in failure.message
    assert blame.of_the_ep(str(tmp_path / "m.onnx"), "CPUExecutionProvider", ACYCLIC) is None


@pytest.mark.parametrize(("axis", "scales"), [(1, 7), (0, 3)])
def test_a_failing_run_says_the_cause_and_that_it_fails_without_optimizations_too(
    supervise: Supervise, tmp_path: Path, axis: int, scales: int
) -> None:
    job = {
        "op": "run",
        "model": str(wrong_scale(tmp_path / "m.onnx", axis, scales)),
        "samples": samples(tmp_path / "data", (2, 2)),
        "providers": [["CPUExecutionProvider", {}]],
        "session": {"graph_optimization_level": "all", "intra_op_threads": 1},
        "output": str(tmp_path / "out"),
    }
    outcome = supervise(job)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("The pass or tool that quantized the model wrote a scale whose shape does not fit")
    assert "QuantizeLinear node 'quant'" in outcome.reason
    assert "The same file fails on this sample without graph optimizations, too." in outcome.reason


def test_a_later_sample_that_fails_is_the_one_that_is_tried_again(supervise: Supervise, tmp_path: Path) -> None:
    reshape = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="flat")]
    job = {
        "op": "run",
        "model": str(save(tmp_path / "m.onnx", reshape, {"shape": np.array([2, 3])}, ["n", "m"])),
        "samples": samples(tmp_path / "data", (2, 3), (3, 2), (5, 5)),
        "providers": [["CPUExecutionProvider", {}]],
        "session": {"graph_optimization_level": "all", "intra_op_threads": 1},
        "output": str(tmp_path / "out"),
    }
    outcome = supervise(job)
    assert (outcome.status, "{5,5}" in outcome.reason) == ("failed", True)
    assert outcome.reason.endswith("The same file fails on this sample without graph optimizations, too.")


# The self-check of a pass


def test_the_self_check_says_what_it_tried(tmp_path: Path) -> None:
    feeds = [{"x": np.ones((2, 2), np.float32)}]
    job = job_for(tmp_path / "pass", relu(tmp_path / "float.onnx"), samples_folder(tmp_path / "cal", feeds), {})
    wrong_scale(Path(job.output), 1, 5)
    self_check = helper_module("_models.self_check")
    measured, sentence = self_check.against_float(wrong_scale(tmp_path / "f.onnx", 1, 2), job, feeds)
    assert measured == {}
    assert sentence.startswith("The quantized model does not run, with or without graph optimizations: ")
    assert "size 2" in sentence or "scale" in sentence
    measured, sentence = self_check.against_float(wrong_scale(tmp_path / "g.onnx", 1, 9), job, feeds)
    assert measured == {}
    assert sentence.startswith("The quantized model was not compared with the float one, which does not run here: ")


# EP, runtime and model that do not go together


def test_a_plugin_that_wants_a_newer_api_is_incompatible() -> None:
    log = "x\nThe requested API version [29] is not available, only [1, 23] are supported in this build.\n"
    none = JobOutcome("unsupported", "The plugin EP is registered and offers no device here", kind="unsupported")
    found = supervisor._with_log(none, log)
    assert (found.status, found.log) == ("incompatible", log)
    assert found.reason.endswith("wants version 29 of ONNX Runtime's API, and this one has 1 to 23.")
    assert supervisor._with_log(none, "nothing").status == "unsupported"
    fine = JobOutcome("ok")
    assert supervisor._with_log(fine, log).status == "ok"


def test_the_self_check_of_a_model_whose_outputs_are_no_tensors_has_nothing_to_say(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)],
        "g",
        [value("x", FLOAT, ["n", 2])],
        [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = [{"x": np.ones((3, 2), np.float32)}]
    job = job_for(tmp_path / "pass", model, samples_folder(tmp_path / "cal", feeds), {})
    onnx.save(model, job.output)
    assert helper_module("_models.self_check").against_float(job.model, job, feeds) == ({}, "")


# What an exception's or a process's words are taken to mean


class FailError(Exception):
    """As ORT's Fail."""


FailError.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


def test_letters_inside_a_name_are_no_lack_of_memory() -> None:
    assert classify(FailError("Node 'ZOOM_in' failed: bad shape"), "run").kind == "failed"
    assert classify(FailError("CUDA error: OOM when allocating"), "run").kind == "memory"


def test_a_refused_resource_is_most_likely_a_thread() -> None:
    assert "most likely a further thread" in classify(RuntimeError("Resource temporarily unavailable"), "load").message
    assert classify(RuntimeError("can't start new thread"), "load").message.startswith("could not start a thread")


def test_the_limit_of_a_container_is_named(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    for text, said in (("2147483648", " (this container may use 2,147,483,648 bytes)"), ("max", "")):
        limit.write_text(text + "\n")
        assert signals._container_limit((str(tmp_path / "none"), str(limit))) == said
    limit.write_text(str((1 << 63) - 4096))  # version 1 without a limit
    assert signals._container_limit((str(limit),)) == ""


# Data of a calibration


def test_a_calibration_that_stops_says_whether_the_model_runs_on_the_sample(tmp_path: Path) -> None:
    loading = helper_module("_models.loading")
    reshape = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="flat")]
    model = save(tmp_path / "m.onnx", reshape, {"shape": np.array([2, 3])}, ["n", "m"])
    fine, odd = ({"x": np.ones(shape, np.float32)} for shape in ((3, 2), (5, 5)))
    assert loading.whether_it_runs(model, fine) == "The model itself runs on this sample, so the data are not at fault."
    text = loading.whether_it_runs(model, odd)
    assert text.startswith("The model itself does not run on this sample: ") and "shapes and types" in text
