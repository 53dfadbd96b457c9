"""How a worker runs what plugins bring: passes and datasets, files that do not know ortforge."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ortforge.runtime import workerfiles
from ortforge.runtime.supervisor import JobOutcome
from ortforge.worker.classify import classify, short
from ortforge.worker.placement import count_events, placement
from ortforge.worker.samples import Samples, SampleWriter

Supervise = Callable[..., JobOutcome]
ApplyJob = Callable[[str], dict[str, Any]]


# Passes


def test_a_pass_gets_what_the_contract_says(supervise: Supervise, apply_job: ApplyJob, tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path / "calibration")
    for number in range(3):
        writer.write({"x": np.full(2, number, np.float32)})
    writer.close()
    job = apply_job(
        """
        from pathlib import Path
        assert isinstance(job.model, Path) and job.model.read_bytes() == b"a model"
        assert not job.output.exists() and job.output.parent.is_dir()
        assert job.workdir.is_dir() and not list(job.workdir.iterdir())
        assert [path.suffix for path in job.samples] == [".npz"] * 3
        assert [float(feeds["x"][0]) for feeds in job.feeds()] == [0, 1, 2]
        assert [float(feeds["x"][0]) for feeds in job.feeds()] == [0, 1, 2]  # as often as wanted
        assert (job.ep, job.ep_name, job.ep_options) == ("cpu", "CPUExecutionProvider", {})
        assert job.parameters == {"per_channel": True} and job.cpu_flags == ("avx2",)
        job.output.write_bytes(job.ort_version.encode())
        import numpy
        return {"scales": numpy.array([0.5, float("nan")]), "warnings": []}
        """
    )
    job.update(samples=str(tmp_path / "calibration"), parameters={"per_channel": True}, cpu_flags=["avx2"])
    outcome = supervise(job)
    assert outcome.status == "ok", outcome.log
    assert outcome.result == {"details": {"scales": [0.5, None], "warnings": []}}
    assert Path(job["output"]).read_bytes() == b"1.32.0"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("raise ValueError('opset 11 is too old: raise it first')", "failed", "opset 11 is too old: raise it first"),
        ("raise NotImplementedError('no int4 before 1.20')", "unsupported", "no int4 before 1.20"),
        ("raise MemoryError", "out-of-memory", "out of memory"),
        ("import a_module_that_is_not_there", "failed", "No module named 'a_module_that_is_not_there'"),
        ("return {}", "failed", "wrote no model.onnx"),
        ("return None", "failed", "must return a dict"),
        ("sys.exit(3)", "failed", "exit code 3"),
        ("job.output.write_bytes(b'x')\nreturn {'x': object()}", "failed", "JSON cannot express"),
        ("{}['missing']", "failed", "KeyError: 'missing'"),
    ],
)
def test_a_pass_that_fails_says_why(
    supervise: Supervise, apply_job: ApplyJob, body: str, status: str, words: str
) -> None:
    outcome = supervise(apply_job(body))
    assert outcome.status == status
    assert words in outcome.reason


@pytest.mark.parametrize("ep_name", ["CPUExecutionProvider", "OpenVINOExecutionProvider"])
def test_a_model_that_the_runtime_does_not_know_is_no_fault_of_the_pass(
    supervise: Supervise, apply_job: ApplyJob, ep_name: str
) -> None:
    value = helper.make_tensor_value_info
    info = value("x", TensorProto.FLOAT, [1]), value("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [info[0]], [info[1]])
    failing = "raise RuntimeError('the result does not load. Put preprocess before this pass.')"
    for ir_version, status, words in (
        (99, "incompatible", "This runtime does not load the model that the pass was given: This ONNX Runtime"),
        (8, "failed", "Put preprocess before this pass."),
    ):
        job = apply_job(failing) | {"ep_name": ep_name}
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version)
        Path(job["model"]).write_bytes(model.SerializeToString())
        outcome = supervise(job)
        assert (outcome.status, words in outcome.reason) == (status, True), outcome.reason


def test_a_kernel_that_only_the_cpu_ep_lacks_does_not_speak_for_the_cell(
    supervise: Supervise, apply_job: ApplyJob
) -> None:
    # The CPU EP has no Add of bfloat16; another EP may.
    value = helper.make_tensor_value_info
    info = [value(name, TensorProto.BFLOAT16, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    said = {}
    for ep_name in ("CPUExecutionProvider", "CUDAExecutionProvider"):
        job = apply_job("raise RuntimeError('a sentence of the pass')") | {"ep_name": ep_name}
        Path(job["model"]).write_bytes(model.SerializeToString())
        outcome = supervise(job)
        said[ep_name] = (outcome.status, "a sentence of the pass" in outcome.reason)
    assert said == {"CPUExecutionProvider": ("unsupported", False), "CUDAExecutionProvider": ("failed", True)}


def test_a_module_that_cannot_be_loaded(supervise: Supervise, apply_job: ApplyJob, tmp_path: Path) -> None:
    job = apply_job("")
    contents = {
        "needs.py": ("import a_module_that_is_not_there\n", "name it in its requires"),
        "empty.py": ("", "does not define apply(job)"),
        "broken.py": ("def apply(job:\n", "broken.py"),
    }
    for name, (source, words) in contents.items():
        (tmp_path / name).write_text(source)
        outcome = supervise({**job, "module": str(tmp_path / name)})
        assert outcome.status == "failed"
        assert words in outcome.reason
    assert "no Python file" in supervise({**job, "module": str(tmp_path / "missing.py")}).reason


def test_a_module_may_import_files_beside_it_and_hides_nothing(
    supervise: Supervise, apply_job: ApplyJob, tmp_path: Path
) -> None:
    job = apply_job("import _shared, json\nassert json.dumps(_shared.VALUE) == '7'")
    folder = Path(job["module"]).parent
    (folder / "_shared.py").write_text("VALUE = 7\n")
    (folder / "json.py").write_text("raise SystemExit('not the real json')\n")
    assert supervise(job).status == "ok"


def test_a_module_may_import_packages_beside_it_relatively(supervise: Supervise, apply_job: ApplyJob) -> None:
    job = apply_job("from ._parts import wheel\nassert wheel.AXLE == 7")
    folder = Path(job["module"]).parent
    (folder / "__init__.py").write_text("raise SystemExit('this may need ortforge')\n")
    (folder / "_parts").mkdir()
    (folder / "_parts" / "wheel.py").write_text("from ..single import AXLE\n")
    (folder / "single.py").write_text("AXLE = 7\n")
    assert supervise(job).status == "ok"


# Datasets


@pytest.fixture
def materialize(supervise: Supervise, tmp_path: Path) -> Callable[..., JobOutcome]:
    def run(body: str, **changes: Any) -> JobOutcome:
        module = tmp_path / "dataset.py"
        module.write_text(
            "import numpy as np\n\ndef materialize(job):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        )
        job = {
            "op": "materialize",
            "module": str(module),
            "reference": "things:7",
            "base": str(tmp_path),
            "options": {"size": 2},
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 2]}],
            "limit": 3,
            "output": str(tmp_path / "made"),
            **changes,
        }
        return supervise(job)

    return run


def test_a_dataset_writes_at_most_what_is_wanted(materialize: Callable[..., JobOutcome], tmp_path: Path) -> None:
    outcome = materialize(
        """
        assert job.reference == "things:7" and job.base.is_dir() and job.options == {"size": 2} and job.limit == 3
        number = 0
        while job.write({job.inputs[0]["name"]: np.full((1, 2), number, np.float32)}, label=number):
            number += 1
        assert not job.write({"x": np.zeros((1, 2), np.float32)}, label=99)
        return {"random": True, "source": "seven things"}
        """
    )
    assert outcome.status == "ok", outcome.log
    assert {**outcome.result, "inputs": None} == {"count": 3, "random": True, "labels": True, "inputs": None}
    samples = Samples(tmp_path / "made")
    assert (samples.random, samples.source, samples.labels) == (True, "seven things", [0, 1, 2])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return {}", "things:7 gave no samples"),
        ("job.write([1, 2])", "must be a dict"),
        ("job.write({'x': [object()]})", "Python objects (object)"),
        ("raise FileNotFoundError('no such folder: things')", "no such folder: things"),
    ],
)
def test_a_dataset_that_fails_says_why(materialize: Callable[..., JobOutcome], body: str, words: str) -> None:
    outcome = materialize(body)
    assert outcome.status == "failed"
    assert words in outcome.reason


# The worker's copy


def test_the_copy_is_complete_and_made_once(tmp_path: Path) -> None:
    folder, digest = workerfiles.install(tmp_path)
    assert folder == tmp_path / "worker" / digest
    made = (folder / "ortforge_worker" / "worker" / "__main__.py").stat().st_ino
    assert workerfiles.install(tmp_path) == (folder, workerfiles.digest())
    assert (folder / "ortforge_worker" / "worker" / "__main__.py").stat().st_ino == made
    assert [path.name for path in folder.parent.iterdir()] == [digest]
    sources = Path(sys.modules["ortforge.worker"].__path__[0])
    assert {path.name for path in (folder / "ortforge_worker" / "worker").iterdir()} == {
        path.name for path in sources.glob("*.py")
    }


# Words


class Fail(Exception):  # noqa: N818 - ORT's name
    """As ORT's own, which cannot be made from Python."""


Fail.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(
    ("text", "phase", "kind", "message"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
            "onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void(int)>&) const "
            "Unsupported model IR version: 99, max supported IR version: 14\n",
            "load",
            "incompatible",
            f"This ONNX Runtime {ort.__version__} is too old for the model: "
            "Unsupported model IR version: 99, max supported IR version: 14",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Expand node. "
            "Name:'' Status Message: /src/bfc_arena.cc:376 void* onnxruntime::BFCArena::Raw(size_t, bool) "
            "Failed to allocate memory for requested buffer of size 12\n",
            "run",
            "memory",
            "Expand node: Failed to allocate memory for requested buffer of size 12",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: /src/ov_interface.cc:60 "
            "T onnxruntime::f(Func&&, Args&& ...) [with bool typed = false; Func = g(const T&)::<lambda()>] "
            "[OpenVINO-EP] Exception while Loading Network: Exception from src/core.cpp:114:\n"
            "Check '!shape.rank().is_dynamic()' failed at src/node.cpp:106:\n"
            "Unexpected: CPU plug-in doesn't support Parameter operation with dynamic rank.\n\n",
            "load",
            "unsupported",
            "[OpenVINO-EP] Exception while Loading Network: "
            "Unexpected: CPU plug-in doesn't support Parameter operation with dynamic rank.",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /a b/m.onnx failed:/src/onnxruntime/graph/graph.cc:9 "
            "onnxruntime::Status onnxruntime::Check(int) Model local function definitions must not be recursive.",
            "load",
            "model",
            "Model local function definitions must not be recursive.",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : something odd", "run", "failed", "something odd"),
    ],
)
def test_what_onnxruntime_says_is_sorted_and_shortened(text: str, phase: str, kind: str, message: str) -> None:
    failure = classify(Fail(text), phase)
    assert (failure.kind, failure.message) == (kind, message)


def test_a_long_message_is_cut() -> None:
    assert len(short("x" * 5000)) == 400


# Placement's two sources


def event(name: str, ep: str, op: str, duration: int, ts: int = 10) -> dict[str, Any]:
    args = {"op_name": op, "provider": ep, "node_index": name}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "ts": ts, "args": args}


def model_run(ts: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 5}


def test_time_is_that_of_the_last_run_and_control_flow_has_none_of_its_own() -> None:
    events = [
        model_run(0),
        event("a", "NPU", "Fused_1", 1000, ts=1),
        event("b", "CPU", "If", 1000, ts=2),
        model_run(100),
        event("a", "NPU", "Fused_1", 75, ts=101),
        event("b", "CPU", "If", 500, ts=102),
        event("c", "CPU", "Relu", 25, ts=103),
        event("m", "NPU", "MemcpyToHost", 10, ts=104),
    ]
    ran = count_events(events)
    assert ran.nodes == {"NPU": 1, "CPU": 2}
    assert placement("NPU", ran, None)["time_share"] == {"NPU": 0.75, "CPU": 0.25}


def test_sources_contradict_each_other_only_about_whether_the_ep_ran_nodes() -> None:
    from collections import Counter

    on_both = count_events([event("a", "NPU", "Fused_1", 3), event("c", "CPU", "Relu", 1)])
    took = {"NPU": Counter(Conv=5, Add=2), "CPU": Counter(Relu=1)}
    agreeing = placement("NPU", on_both, took)
    assert agreeing["agree"]
    assert agreeing["nodes"] == {"NPU": 7, "CPU": 1}  # what is inside the fused subgraph
    assert agreeing["sources"] == ["profile", "assignment"]

    on_cpu = count_events([event("a", "CPU", "Conv", 3)])
    contradicting = placement("NPU", on_cpu, took)
    assert not contradicting["agree"]
    assert "NPU took 7 nodes" in contradicting["note"]
    assert placement("NPU", on_cpu, {"CPU": Counter(Conv=1)})["agree"]
    assert placement("NPU", on_cpu, None)["sources"] == ["profile"]
