"""Inputs and outputs that stay in an EP's memory, on the CPU's: the same calls, with host memory as the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ortforge.runtime.supervisor import Interpreter, JobOutcome, Limits, WorkerSession
from ortforge.worker import io_binding, trials
from ortforge.worker.io_binding import Bound, Plain, runner
from ortforge.worker.protocol import JobError
from ortforge.worker.samples import Samples, SampleWriter

Supervise = Callable[..., JobOutcome]
CPU: list[list[Any]] = [["CPUExecutionProvider", {}]]
value = helper.make_tensor_value_info


def session_of(nodes: Sequence[onnx.NodeProto], inputs: Sequence[Any], outputs: Sequence[Any]) -> ort.InferenceSession:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture
def double() -> ort.InferenceSession:
    return session_of(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
    )


def ones(rows: int, times: float = 1.0) -> dict[str, Any]:
    return {"x": np.full((rows, 3), times, np.float32)}


def test_bound_samples_of_several_shapes_are_answered_like_plain_ones(double: ort.InferenceSession) -> None:
    bound = Bound(ort, double, "cpu")
    feeds = [ones(1), ones(4, 2.0), ones(1, 3.0)]
    held = [bound.hold(sample) for sample in feeds]
    for sample, holding in [*zip(feeds, held, strict=True), *zip(feeds, held, strict=True)]:
        answer = bound.answer(holding)
        np.testing.assert_array_equal(answer[0], double.run(None, sample)[0])


def test_a_bound_output_keeps_its_memory_from_run_to_run(double: ort.InferenceSession) -> None:
    bound = Bound(ort, double, "cpu")
    held = bound.hold(ones(2))
    before = held.slot.binding.get_outputs()[0].data_ptr()
    for _ in range(3):
        bound.run(None, held)
    assert held.slot.binding.get_outputs()[0].data_ptr() == before


def test_captured_samples_share_buffers_by_shape_and_are_copied_into_them(double: ort.InferenceSession) -> None:
    """On the CPU EP nothing is captured; the buffers, and what is copied when, are the same."""
    bound = Bound(ort, double, "cpu", captured=True)
    first, second, other = bound.hold(ones(2)), bound.hold(ones(2, 5.0)), bound.hold(ones(3, 7.0))
    assert first.slot is second.slot
    assert first.slot is not other.slot
    for held, expected in ((first, 2.0), (second, 10.0), (other, 14.0), (first, 2.0)):
        assert bound.answer(held)[0].ravel().tolist() == [expected] * bound.answer(held)[0].size


def test_too_many_shapes_for_graphs_are_refused_with_a_way_out(
    double: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io_binding, "MOST_SHAPES", 2)
    bound = Bound(ort, double, "cpu", captured=True)
    bound.hold(ones(1))
    bound.hold(ones(2))
    bound.hold(ones(1, 9.0))  # a known shape
    with pytest.raises(JobError, match=r"more than 2 combinations of input shapes.*turn it off") as refusal:
        bound.hold(ones(3))
    assert refusal.value.kind == "unsupported"


def test_what_cannot_be_bound_is_run_plainly_and_never_captured() -> None:
    session = session_of(
        [
            helper.make_node("Identity", ["s"], ["t"]),
            helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0, keepdims=1),
        ],
        [value("s", TensorProto.STRING, ["n"]), value("x", TensorProto.FLOAT, ["n", 2])],
        [
            value("t", TensorProto.STRING, ["n"]),
            helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None),
        ],
    )
    feeds = {"s": np.array(["a", "b"]), "x": np.ones((2, 2), np.float32)}
    plain = runner(ort, session, CPU, {"io_binding": "cpu"})
    assert isinstance(plain, Plain)
    assert plain.run(None, plain.hold(feeds))[0].tolist() == ["a", "b"]
    with pytest.raises(JobError, match="input 's' is string, which cannot be bound"):
        runner(ort, session, [["CUDAExecutionProvider", {"enable_cuda_graph": "1"}]], {"io_binding": "cpu"})


def test_a_sequence_that_a_model_gives_stays_in_host_memory() -> None:
    session = session_of(
        [
            helper.make_node("Neg", ["x"], ["y"]),
            helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0, keepdims=1),
        ],
        [value("x", TensorProto.FLOAT, ["n", 2])],
        [
            value("y", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None),
        ],
    )
    bound = Bound(ort, session, "cpu")
    held = bound.hold({"x": np.ones((2, 2), np.float32)})
    bound.run(None, held)
    assert held.slot.binding.get_outputs()[0].numpy().tolist() == [[-1.0, -1.0], [-1.0, -1.0]]


def test_an_output_that_numpy_does_not_know_is_refused_for_graphs() -> None:
    session = session_of(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.BFLOAT16, [2])],
    )
    bound = Bound(ort, session, "cpu", captured=True)
    held = bound.hold({"x": np.ones(2, np.float32)})
    with pytest.raises(JobError, match=r"output 'y' is bfloat16.*turn enable_cuda_graph off"):
        bound.answer(held)


def test_what_a_job_asks_for_decides_how_samples_are_run(double: ort.InferenceSession) -> None:
    assert isinstance(runner(ort, double, CPU, {}), Plain)
    bound = runner(ort, double, [["CPUExecutionProvider", {"device_id": "0"}]], {"io_binding": "cpu"})
    assert isinstance(bound, Bound)
    assert bound.place == "cpu:0"
    graphs = [["CUDAExecutionProvider", {"enable_cuda_graph": "1"}]]
    captured = runner(ort, double, graphs, {"io_binding": "cpu"})
    assert isinstance(captured, Bound)
    assert captured.captured
    with pytest.raises(JobError, match="inputs and outputs must be bound: remove io_binding = false"):
        runner(ort, double, graphs, {})


def job_of(op: str, folder: Path, **session: Any) -> dict[str, Any]:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 64])],
        [value("y", TensorProto.FLOAT, ["n", 64])],
        initializer=[onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(folder / "m.onnx")
    )
    writer = SampleWriter(folder / "samples")
    for rows, number in ((1, 1.0), (5, 5.0), (5, 6.0)):
        writer.write({"x": np.full((rows, 64), number, np.float32)})
    writer.close()
    return {
        "op": op,
        "model": str(folder / "m.onnx"),
        "samples": str(folder / "samples"),
        "ep": "cpu",
        "providers": CPU,
        "session": {"intra_op_threads": 1, **session},
    }


@pytest.mark.parametrize("place", [{}, {"io_binding": "cpu"}])
def test_a_timing_takes_turns_either_way(interpreter: Interpreter, tmp_path: Path, place: dict[str, Any]) -> None:
    job = job_of("time", tmp_path, **place)
    with WorkerSession(interpreter, job, limits=Limits(memory=2 << 30), workdir=tmp_path) as session:
        assert session.ready["samples"] == 3
        assert session.ready["first_run_s"] > 0
        turn = session.ask({"op": "turn", "iterations": 7, "discard": 1}, timeout=20)
        assert len(turn["ns"]) == 7
        assert min(turn["ns"]) > 0
        assert session.ask({"op": "finish"}, timeout=20)["peak_rss"] > 1 << 20


GRAPHS = [["CPUExecutionProvider", {"enable_cuda_graph": "1"}]]
"""The CPU EP captures nothing and takes no offence; all that ortforge does for graphs is done."""


def test_a_run_with_graphs_answers_each_sample_with_its_own_numbers(supervise: Supervise, tmp_path: Path) -> None:
    job = job_of("run", tmp_path, io_binding="cpu") | {"providers": GRAPHS}
    outcome = supervise({**job, "output": str(tmp_path / "outputs"), "placement": True})
    assert outcome.status == "ok", outcome.reason
    answers = [sample["y"] for sample in Samples(tmp_path / "outputs")]
    assert [answer.shape for answer in answers] == [(1, 64), (5, 64), (5, 64)]
    assert [float(answer[0, 0]) for answer in answers] == [1.0, 5.0, 6.0]
    assert outcome.result["placement"]["ops"]["CPUExecutionProvider"]["MatMul"] == 1
    assert outcome.result["first_run_s"] > 0


def test_a_timing_with_graphs_takes_turns(interpreter: Interpreter, tmp_path: Path) -> None:
    job = job_of("time", tmp_path, io_binding="cpu") | {"providers": GRAPHS}
    with WorkerSession(interpreter, job, limits=Limits(memory=2 << 30), workdir=tmp_path) as session:
        assert len(session.ask({"op": "turn", "iterations": 6, "discard": 1}, timeout=20)["ns"]) == 6
        session.ask({"op": "finish"}, timeout=20)


@pytest.mark.parametrize("providers", [CPU, GRAPHS])
def test_a_trial_answers_and_takes_turns_bound(tmp_path: Path, providers: list[list[Any]]) -> None:
    job_of("trial", tmp_path)
    job = trials.job_for(tmp_path / "m.onnx", tmp_path / "samples", [0, 1, 2], providers, {"io_binding": "cpu"})
    with trials.Trial(job, trials.TrialProcess(tmp_path / "trial"), timeout_s=60) as trial:
        assert [float(answer["y"][0, 0]) for answer in trial.answers()] == [1.0, 5.0, 6.0]
        assert len(trial.turn(4, start=1, discard=1)) == 4


def test_a_run_says_where_its_tensors_lie_while_they_are_timed(supervise: Supervise, tmp_path: Path) -> None:
    job = job_of("run", tmp_path, io_binding="cpu")
    outcome = supervise({**job, "output": str(tmp_path / "outputs"), "placement": True})
    assert outcome.status == "ok", outcome.reason
    assert outcome.result["io_binding"] == "cpu:0"
    assert outcome.result["device_memory"] is None
    assert outcome.result["remarks"] == []  # they speak of NVIDIA's GPUs
    assert outcome.result["ep_options"] == {}
