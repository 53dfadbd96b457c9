"""Trials: models that a pass tries out in processes of their own, and what is said when one of those dies."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from ortforge.plugins.passes._measuring import pair_timing

from ortforge.worker.apply import PassJob
from ortforge.worker.samples import Samples, SampleWriter
from ortforge.worker.trials import TrialError


def model(folder: Path, factor: float = 2.0, *, loops: int = 0) -> Path:
    """Multiply by a factor; with ``loops``, so many times over, inside a Loop."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    weights = [numpy_helper.from_array(np.float32(factor), "f")]
    nodes = [helper.make_node("Mul", ["x", "f"], ["y"])]
    if loops:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["v", "f"], ["w"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4]),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 4]),
            ],
        )
        weights += [numpy_helper.from_array(np.int64(loops), "n"), numpy_helper.from_array(np.bool_(True), "yes")]
        nodes = [helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)]
    graph = helper.make_graph(nodes, "g", [value], [out], weights)
    path = folder / f"model-{factor}-{loops}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def job(tmp_path: Path) -> PassJob:
    writer = SampleWriter(tmp_path / "samples")
    for number in range(3):
        writer.write({"x": np.full((1, 4), number, np.float32)})
    writer.close()
    (tmp_path / "work").mkdir()
    return PassJob(
        model=model(tmp_path),
        output=tmp_path / "out" / "model.onnx",
        parameters={},
        samples=tuple(Samples(tmp_path / "samples").paths),
        folder=tmp_path / "samples",
        ep="cpu",
        ep_name="CPUExecutionProvider",
        ep_options={},
        ort_version="",
        cpu_flags=(),
        workdir=tmp_path / "work",
        session={"graph_optimization_level": "all", "intra_op_threads": 1},
    )


def test_a_trial_answers_and_is_timed(job: PassJob) -> None:
    with job.trial(job.model, [0, 2]) as trial:
        assert [answer["y"][0, 0] for answer in trial.answers()] == [0.0, 4.0]
        assert [answer["y"][0, 0] for answer in trial.answers()] == [0.0, 4.0]
        assert len(trial.turn(5, start=1, discard=1)) == 5
        assert trial.first_run_s > 0.0 and trial.load_s > 0.0
    assert list(job.workdir.iterdir()) == []


def test_a_trial_loads_again_and_answers_no_more(job: PassJob) -> None:
    with job.trial(job.model, [0]) as trial:
        assert trial.turn(1)
        assert min(trial.load()) > 0 and len(trial.load(3, discard=1)) == 3
        with pytest.raises(TrialError, match="not 'turn' here"):
            trial.turn(1)


def test_loads_in_turns_tell_which_model_loads_sooner(job: PassJob, tmp_path: Path) -> None:
    names = ["x", *(f"t{number}" for number in range(3000)), "y"]
    nodes = [helper.make_node("Mul", [before, "f"], [after]) for before, after in pairwise(names)]
    value, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [value], [out], [numpy_helper.from_array(np.float32(1.0), "f")])
    long = tmp_path / "long.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), long)
    with job.trial(long, [0]) as first, job.trial(job.model, [0]) as short, job.trial(long, [0]) as same:
        sooner, equal = pair_timing.loads_against_first([first, short, same], 5.0)
    assert sooner.is_faster and sooner.turns >= pair_timing.FEWEST_LOADS
    assert not equal.low > 1.3 and not equal.high < 0.77
    with job.trial(long, [0]) as first, job.trial(job.model, [0]) as short:
        (own,) = pair_timing.loads_against_first([first, short], 0.0)
        assert own.turns == 1 and own.ratio == pytest.approx(first.load_s / short.load_s)
        assert first.turn(1), "where a load takes longer than the time for it, nothing is loaded again"


def test_two_trials_take_turns(job: PassJob) -> None:
    with job.trial(job.model, [1]) as first, job.trial(job.model, [1], reference=True) as second:
        assert first.turn(2) and second.turn(2) and first.turn(2)


def test_a_model_that_does_not_load_is_said_in_onnx_runtimes_words(job: PassJob, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(TrialError, match="Protobuf parsing failed"):
        job.trial(tmp_path / "broken.onnx", [0])
    assert list(job.workdir.iterdir()) == []


def test_a_trial_that_hangs_is_ended(job: PassJob, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"did not answer within 2 s"):
        job.trial(model(tmp_path, 1.0, loops=1 << 60), [0], timeout_s=2.0)


def test_a_trial_that_crashes_is_named_by_its_signal(job: PassJob, tmp_path: Path) -> None:
    """A worker whose interpreter is killed while it runs: what a segmentation fault of the runtime looks like."""
    trial = job.trial(job.model, [0])
    trial._process.kill()
    with pytest.raises(TrialError, match=r"it crashed \(SIGKILL\)"):
        trial.turn(1)
    trial.close()


def test_a_session_that_the_runtime_lacks_is_refused(job: PassJob) -> None:
    elsewhere = PassJob(**{**vars(job), "providers": (("NoSuchExecutionProvider", {}),)})
    with pytest.raises(TrialError, match="has no NoSuchExecutionProvider"):
        elsewhere.trial(job.model, [0])


def test_without_samples_there_is_nothing_to_try_on(job: PassJob) -> None:
    bare = PassJob(**{**vars(job), "folder": None, "samples": ()})
    with pytest.raises(ValueError, match="calibration dataset"):
        bare.trial(job.model, [])
