"""Runtimes in containers: the same worker, limits and verdicts as on this machine. Everything here is real."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from command import ROOT, ortforge
from models import classifier, samples, stub_runtime

from ortforge.api import Task
from ortforge.build import proof
from ortforge.container import ContainerSpec, Engine
from ortforge.container import attached as attached_module
from ortforge.container.attached import WORKER_LABEL, Attached, Bind, ProcessSpec, sweep_unstarted
from ortforge.engine.steps.provision import in_clean_room
from ortforge.engine.walk import _stands
from ortforge.engine.work import ready, run_task
from ortforge.errors import BuildError, EnvironmentLacksError, ProvisionError
from ortforge.portable.statuses import CORRECT
from ortforge.runtime.environment import Environment
from ortforge.runtime.supervisor import Interpreter, JobOutcome, Limits, WorkerSession, run_job
from ortforge.worker.samples import Samples, SampleWriter

IMAGE = "debian:trixie-slim"
ORT = "onnxruntime==1.21.1"

ApplyJob = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runtimes") / "store")


def provisioned(
    store: str, where: str, requires: tuple[str, ...] = (ORT,), wheels: tuple[Path, ...] = ()
) -> Mapping[str, Any]:
    context = {"requires": list(requires), "python": "", "wheels": [str(path) for path in wheels], "refused": ""}
    task = Task("provision:x", "provision", f"key-{where}", {"container": where}, (), store, context)
    outcome = run_task(task)
    assert outcome.status == "ok", outcome.reason
    return {**outcome.result, "identity": outcome.identity}


@pytest.fixture(scope="module")
def inside(engine: Engine, base_image: str, store: str) -> Mapping[str, Any]:
    """A published runtime on the image's Python."""
    return provisioned(store, IMAGE)


@pytest.fixture(scope="module")
def here(store: str) -> Mapping[str, Any]:
    """The same on this machine's."""
    return provisioned(store, "never")


@pytest.fixture
def interpreter(store: str, inside: Mapping[str, Any]) -> Interpreter:
    return ready(store).interpreter(inside["environment"])


@pytest.fixture
def apply_job(tmp_path: Path) -> ApplyJob:
    """Make an ``apply`` job from the body of a pass."""

    def make(body: str) -> dict[str, Any]:
        folder = tmp_path / "pass"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"a model")
        source = "import ctypes, os, signal, sys, time\n\ndef apply(job):\n"
        source += textwrap.indent(textwrap.dedent(body), "    ")
        source += "\n    job.output.write_bytes(b'changed')\n    return {'done': True}\n"
        (folder / "the_pass.py").write_text(source)
        return {
            "op": "apply",
            "module": str(folder / "the_pass.py"),
            "model": str(folder / "model.onnx"),
            "output": str(folder / "output" / "model.onnx"),
            "parameters": {},
            "samples": None,
            "ep": "cpu",
            "ep_name": "CPUExecutionProvider",
            "ep_options": {},
            "ort_version": "1.21.1",
            "cpu_flags": [],
        }

    return make


def supervised(interpreter: Interpreter, job: Mapping[str, Any], folder: Path, **limits: Any) -> JobOutcome:
    workdir = folder / "job"
    workdir.mkdir()
    return run_job(interpreter, job, limits=Limits(**{"memory": 1 << 30, **limits}), workdir=workdir)


def with_file(wheel: Path, folder: Path, name: str, content: bytes) -> Path:
    """Write a wheel again, with one file added or replaced and a true RECORD."""
    folder.mkdir()
    row = f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},\n"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(folder / wheel.name, "w") as target:
        for member in source.namelist():
            text = source.read(member).decode()
            if member.endswith("/RECORD"):
                rows = [line for line in text.splitlines(keepends=True) if not line.startswith(f"{name},")]
                text = "".join([row, *rows])
            if member != name:
                target.writestr(member, text)
        target.writestr(name, content)
    return folder / wheel.name


def workers(engine: Engine, folder: Path) -> list[str]:
    """Ids of the containers of workers below a folder, running or not."""
    listed = engine.api.containers(all=True, filters={"label": WORKER_LABEL})
    return [found["Id"] for found in listed if found["Labels"][WORKER_LABEL].startswith(str(folder))]


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# The runtime


def test_a_runtime_has_the_python_of_its_image_and_an_identity_of_its_own(
    engine: Engine, inside: Mapping[str, Any], here: Mapping[str, Any], store: str
) -> None:
    environment = inside["environment"]
    assert environment["kind"] == "container"
    assert environment["image"] == inside["container"]["image"]
    assert inside["container"]["reference"] == IMAGE
    assert environment["interpreter"]["version"].startswith("3.13.")
    assert environment["interpreter"]["libc"] == "glibc 2.41"
    assert inside["probe"]["python"] == environment["interpreter"]["version"]
    assert inside["probe"]["ort_version"] == "1.21.1"
    (wheel,) = [package for package in environment["packages"] if package["name"] == "onnxruntime"]
    assert wheel["wheel"].startswith("onnxruntime-1.21.1-cp313-cp313-manylinux")
    assert len(wheel["sha256"]) == 64
    assert inside["identity"] != here["identity"]
    assert inside["probe"]["malloc"] == "libc.so.6"

    began = time.monotonic()
    assert provisioned(store, IMAGE)["identity"] == inside["identity"]
    assert time.monotonic() - began < 10, "nothing is installed twice"


def test_the_same_model_gives_the_same_outputs(
    store: str, inside: Mapping[str, Any], here: Mapping[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    model = classifier(tmp_path / "model" / "model.onnx")
    writer = SampleWriter(tmp_path / "samples", ["x"])
    for path in sorted(samples(tmp_path / "raw", count=3).iterdir()):
        writer.write({"x": np.load(path)["x"]})
    writer.close()
    outputs = {}
    for name, runtime in (("here", here), ("inside", inside)):
        job = {
            "op": "run",
            "model": str(model),
            "samples": str(tmp_path / "samples"),
            "ep": "cpu",
            "providers": [["CPUExecutionProvider", {}]],
            "session": {"graph_optimization_level": "all", "intra_op_threads": 1},
            "output": str(tmp_path / name / "outputs"),
            "placement": True,
        }
        (tmp_path / name).mkdir()
        outcome = supervised(ready(store).interpreter(runtime["environment"]), job, tmp_path / name)
        assert outcome.status == "ok", outcome.reason
        assert outcome.result["placement"]["nodes"].keys() == {"CPUExecutionProvider"}
        assert outcome.peak_rss > 40 << 20
        outputs[name] = [sample["y"] for sample in Samples(tmp_path / name / "outputs")]
    assert len(outputs["inside"]) == 3
    for left, right in zip(outputs["here"], outputs["inside"], strict=True):
        np.testing.assert_array_equal(left, right)


def test_timing_takes_turns_across_the_border(
    store: str, inside: Mapping[str, Any], here: Mapping[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    model = classifier(tmp_path / "model" / "model.onnx")
    writer = SampleWriter(tmp_path / "samples", ["x"])
    writer.write({"x": np.zeros((1, 32), np.float32)})
    writer.close()
    job = {
        "op": "time",
        "model": str(model),
        "samples": str(tmp_path / "samples"),
        "ep": "cpu",
        "providers": [["CPUExecutionProvider", {}]],
        "session": {"intra_op_threads": 1},
    }
    limits = Limits(memory=1 << 30)
    sessions = []
    for name, runtime in (("here", here), ("inside", inside)):
        (tmp_path / name).mkdir()
        found = ready(store).interpreter(runtime["environment"])
        sessions.append(WorkerSession(found, job, limits=limits, workdir=tmp_path / name))
    with sessions[0] as first, sessions[1] as second:
        for _ in range(3):
            for session in (first, second):
                began = time.monotonic_ns()
                turn = session.ask({"op": "turn", "iterations": 20, "discard": 1, "start": 0}, timeout=20)
                assert len(turn["ns"]) == 20
                assert sum(turn["ns"]) < time.monotonic_ns() - began, "the way to the worker is not timed"
        for session in (first, second):
            assert session.ask({"op": "finish"}, timeout=20)["peak_rss"] > 1 << 20


# Deaths: the same words as for a process of this machine (tests/unit/test_supervisor.py)


@pytest.mark.parametrize(
    ("body", "signal_name"),
    [("ctypes.string_at(0)", "SIGSEGV"), ("os.abort()", "SIGABRT"), ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL")],
)
def test_a_crash_is_named_by_its_signal_and_tried_twice(
    interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path, body: str, signal_name: str
) -> None:
    outcome = supervised(interpreter, apply_job(body), tmp_path)
    assert outcome.status == "crashed"
    assert f"crashed with {signal_name} during apply" in outcome.reason
    assert outcome.attempts == 2
    assert "the_pass.py" in outcome.log


def test_memory_is_limited_by_the_kernel(interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path) -> None:
    body = "kept = [bytearray(b'x' * (1 << 24)) for _ in range(100)]"
    outcome = supervised(interpreter, apply_job(body), tmp_path, memory=300 << 20, address_space=False)
    assert outcome.status == "out-of-memory"
    assert outcome.reason == "it needed more memory than its limit of 300 MiB: the kernel killed it"


def test_one_huge_allocation_fails_at_once(interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path) -> None:
    outcome = supervised(interpreter, apply_job("bytearray(1 << 34)"), tmp_path, memory=300 << 20)
    assert (outcome.status, outcome.kind) == ("out-of-memory", "memory")


def test_an_end_that_nobody_here_caused(interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path) -> None:
    outcome = supervised(interpreter, apply_job("os.kill(os.getpid(), signal.SIGKILL)"), tmp_path)
    assert outcome.status == "out-of-memory"
    assert "killed with SIGKILL during apply, and not by ortforge" in outcome.reason


def test_a_crash_after_the_result_is_a_note(interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path) -> None:
    outcome = supervised(interpreter, apply_job("import atexit; atexit.register(ctypes.string_at, 0)"), tmp_path)
    assert (outcome.status, outcome.note) == ("ok", "crashed at exit with SIGSEGV after its result was complete")


def test_a_hang_ends_at_its_limit_and_leaves_no_container(
    engine: Engine, interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path
) -> None:
    # The interpreter's lock stays held, so nothing inside this Python can end it.
    outcome = supervised(interpreter, apply_job("ctypes.PyDLL(None).sleep(600)"), tmp_path, apply_s=1)
    assert (outcome.status, outcome.reason) == ("timeout", "still at work after 1 s, its limit: it was killed")
    assert eventually(lambda: not workers(engine, tmp_path))


def test_orphans_go_with_the_worker(
    engine: Engine, interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path
) -> None:
    body = """
    import subprocess
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    """
    outcome = supervised(interpreter, apply_job(body), tmp_path)
    assert (outcome.status, outcome.note) == ("ok", "")
    assert eventually(lambda: not workers(engine, tmp_path))


# Who is killed, and what is left


def test_a_killed_ortforge_leaves_no_container(
    engine: Engine, interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path
) -> None:
    """The relay and its supervisor are both gone at once: nobody can tidy up."""
    script = f"""
import json, sys
from pathlib import Path
from ortforge.runtime.supervisor import Interpreter, Limits, run_job
given = json.load(sys.stdin)
interpreter = Interpreter(tuple(given["argv"]), given["environment"])
run_job(interpreter, given["job"], limits=Limits(memory=1 << 30), workdir=Path({str(tmp_path)!r}))
"""
    body = f"""
    open({str(tmp_path / "pass/output/began")!r}, "w").close()
    ctypes.PyDLL(None).sleep(600)
    """
    given = {"argv": interpreter.argv, "environment": dict(interpreter.environment), "job": apply_job(body)}
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode())
    process.stdin.close()
    try:
        assert eventually((tmp_path / "pass/output/began").exists, within=30)
        assert len(workers(engine, tmp_path)) == 1
    finally:
        process.kill()
        process.wait()
    assert eventually(lambda: not workers(engine, tmp_path))


def test_a_killed_relay_is_an_outcome_and_leaves_no_container(
    engine: Engine, interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path
) -> None:
    body = f"""
    open({str(tmp_path / "pass/output/began")!r}, "w").close()
    time.sleep(600)
    """
    job = apply_job(body)
    (tmp_path / "job").mkdir()
    with ThreadPoolExecutor(1) as pool:
        limits = Limits(memory=1 << 30)
        running = pool.submit(run_job, interpreter, job, limits=limits, workdir=tmp_path / "job")
        assert eventually((tmp_path / "pass/output/began").exists, within=30)
        for child in psutil.Process().children():
            if "ortforge.runtime.container_relay" in child.cmdline():
                child.send_signal(signal.SIGKILL)
        outcome = running.result(timeout=20)
    assert outcome.status == "out-of-memory"
    assert "killed with SIGKILL" in outcome.reason
    assert eventually(lambda: not workers(engine, tmp_path))


def test_a_container_that_is_killed_is_an_outcome(
    engine: Engine, interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path
) -> None:
    body = f"""
    open({str(tmp_path / "pass/output/began")!r}, "w").close()
    time.sleep(600)
    """
    job = apply_job(body)
    (tmp_path / "job").mkdir()
    with ThreadPoolExecutor(1) as pool:
        limits = Limits(memory=1 << 30)
        running = pool.submit(run_job, interpreter, job, limits=limits, workdir=tmp_path / "job")
        assert eventually((tmp_path / "pass/output/began").exists, within=30)
        (container,) = workers(engine, tmp_path)
        engine.api.kill(container)
        outcome = running.result(timeout=20)
    assert "killed with SIGKILL during apply, and not by ortforge" in outcome.reason


def test_containers_that_were_never_started_are_swept(
    engine: Engine, inside: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = inside["environment"]["image"]
    spec = ProcessSpec(image=image, argv=["python3"], user="0:0", workdir=str(tmp_path))
    made = attached_module._create(engine.api, spec)["Id"]
    sweep_unstarted(engine.api)  # one that is just being started is left alone
    assert workers(engine, tmp_path) == [made]
    monkeypatch.setattr(attached_module, "_START_S", -10.0)
    assert sweep_unstarted(engine.api) >= 1
    assert workers(engine, tmp_path) == []


# What a worker may do


def test_a_worker_is_shut_in(interpreter: Interpreter, apply_job: ApplyJob, tmp_path: Path) -> None:
    body = """
    import urllib.request

    def refused(action):
        try:
            action()
        except OSError as error:
            return error.strerror or str(error.reason)
        return ""

    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    found = {
        "user": [os.getuid(), os.getgid()],
        "root": refused(lambda: open("/usr/x", "w")),
        "model": refused(lambda: open(job.model, "w")),
        "environment": refused(lambda: open(sys.prefix + "/x", "w")),
        "network": refused(lambda: urllib.request.urlopen("http://192.0.2.1", timeout=3)),
        "capabilities": status["CapEff"].strip(),
        "privileges": status["NoNewPrivs"].strip(),
        "variables": sorted(os.environ),
        "home": refused(lambda: open(os.path.expanduser("~/x"), "w")),
    }
    job.output.write_bytes(b"x")
    return found
    """
    os.environ["A_SECRET_OF_THE_CALLER"] = "1"
    outcome = supervised(interpreter, apply_job(body), tmp_path)
    found = outcome.result["details"]
    assert found["user"] == [os.getuid(), os.getgid()]
    assert found["root"] == found["model"] == found["environment"] == "Read-only file system"
    assert "unreachable" in found["network"]
    assert set(found["capabilities"]) == {"0"}
    assert found["privileges"] == "1"
    assert "A_SECRET_OF_THE_CALLER" not in found["variables"]
    assert "ORT_DISABLE_TELEMETRY" in found["variables"]
    assert found["home"] == ""


# Wheels that fit nothing here


def test_a_wheel_for_a_newer_glibc_runs_in_a_container_by_itself(
    engine: Engine, base_image: str, store: str, tmp_path: Path
) -> None:
    plain = stub_runtime(tmp_path, "hang")
    wheel = tmp_path / "onnxruntime-1.99.0-cp313-cp313-manylinux_2_41_x86_64.whl"
    shutil.move(plain, wheel)
    found = provisioned(store, "auto", (), (wheel,))
    assert found["container"]["reference"] == IMAGE
    assert f"{wheel.name} needs glibc 2.41, and this machine has" in found["container"]["why"]
    (package,) = [package for package in found["environment"]["packages"] if package["name"] == "onnxruntime"]
    assert package["wheel"] == wheel.name
    assert not list(Path(found["environment"]["folder"]).glob("wheels/*")), "no second copy stays"


def test_a_wheel_that_does_not_fit_the_image_is_refused_with_both_sides(
    engine: Engine, base_image: str, store: str, tmp_path: Path
) -> None:
    plain = stub_runtime(tmp_path, "hang")
    wheel = tmp_path / "onnxruntime-1.99.0-cp312-cp312-linux_x86_64.whl"
    shutil.move(plain, wheel)
    context = {"requires": [], "python": "", "wheels": [str(wheel)], "refused": ""}
    outcome = run_task(Task("provision:x", "provision", "key", {"container": IMAGE}, (), store, context))
    assert outcome.status == "failed"
    expected = f"{wheel.name} is for cp312, not for Python 3.13, and the image {IMAGE} has Python 3.13."
    assert expected in outcome.reason
    assert "and glibc 2.41." in outcome.reason


def test_an_image_with_another_python_than_the_one_asked_for(engine: Engine, base_image: str, store: str) -> None:
    context = {"requires": [ORT], "python": "3.12", "wheels": [], "refused": ""}
    outcome = run_task(Task("provision:x", "provision", "key", {"container": IMAGE}, (), store, context))
    assert outcome.status == "failed"
    assert f"The image {IMAGE} has Python 3.13." in outcome.reason
    assert "and the target asks for 3.12." in outcome.reason


def test_an_environment_falls_with_its_image(engine: Engine, inside: Mapping[str, Any]) -> None:
    assert _stands(inside)
    image = engine.build_image(
        {"Dockerfile": f"FROM {inside['environment']['image']}\nENV NOTHING=1\n".encode()},
        dockerfile="Dockerfile",
        arguments={},
        labels={},
        say=lambda sentence: None,
    )
    elsewhere = {"environment": {**inside["environment"], "image": image}}
    assert _stands(elsewhere)
    engine.api.remove_image(image, force=True)
    assert not _stands(elsewhere)
    folder = Path(inside["environment"]["folder"])
    library = next(folder.rglob("libonnxruntime*.so*"))
    os.utime(library, (0, 0))
    assert not _stands(inside), "and with its files, like any other"


def test_an_engine_that_does_not_see_our_folders_is_told_from_others(engine: Engine, inside: Mapping[str, Any]) -> None:
    spec = ProcessSpec(
        image=inside["environment"]["image"],
        argv=["python3"],
        user="0:0",
        workdir="/",
        binds=[Bind("/a/folder/of/another/machine")],
    )
    with pytest.raises(EnvironmentLacksError, match="does not see this machine's folders"):
        Attached(engine.api, spec)


def test_an_image_that_is_gone_is_named(engine: Engine) -> None:
    spec = ProcessSpec(image=f"sha256:{'0' * 64}", argv=["python3"], user="0:0", workdir="/")
    with pytest.raises(EnvironmentLacksError, match="image is gone"):
        Attached(engine.api, spec)


def test_gpus_are_given_or_it_is_said_what_the_engine_lacks(engine: Engine, inside: Mapping[str, Any]) -> None:
    show = ["python3", "-c", "import glob; print(glob.glob('/dev/nvidia[0-9]*'))"]
    spec = ProcessSpec(image=inside["environment"]["image"], argv=show, user="0:0", workdir="/", gpus=True)
    try:
        with Attached(engine.api, spec) as process:
            shown = b"".join(data for _, data in process.output())
    except EnvironmentLacksError as error:
        assert error.what.startswith("The container engine gives its containers no GPU: ")
        assert "nvidia-container-toolkit" in error.todo
        assert not engine.api.containers(all=True, filters={"label": WORKER_LABEL, "status": "created"})
    else:
        assert b"/dev/nvidia" in shown


def test_a_cell_that_needs_a_gpu_says_what_its_container_lacks(
    engine: Engine, interpreter: Interpreter, tmp_path: Path
) -> None:
    model, data = proof.write(tmp_path)
    job = {
        "op": "run",
        "model": str(model),
        "samples": str(data),
        "output": str(tmp_path / "out"),
        "ep": "cuda",
        "providers": [["CUDAExecutionProvider", {}], ["CPUExecutionProvider", {}]],
        "session": {},
    }
    outcome = supervised(interpreter, job, tmp_path)
    assert outcome.status != "ok", "the runtime is one without CUDA"
    if "nvidia" not in engine.api.info()["Runtimes"]:
        assert "The container engine gives its containers no GPU" in outcome.reason
        assert "nvidia-ctk runtime configure" in outcome.reason


def test_an_allocator_is_in_force_inside(
    engine: Engine, store: str, base_image: str, toolchain_image: str, tmp_path: Path
) -> None:
    code = "#include <stddef.h>\nvoid *__libc_malloc(size_t);\nvoid *malloc(size_t n) { return __libc_malloc(n); }\n"
    library, folder = tmp_path / "libjemalloc.so.2", tmp_path / "package"
    with engine.open(ContainerSpec(image=toolchain_image)) as container:
        container.put_files({"allocator.c": code.encode()}, "/tmp/made")
        made = container.run(["cc", "-shared", "-fPIC", "-o", "/tmp/made/allocator.so", "/tmp/made/allocator.c"])
        assert made.code == 0, made.tail
        container.get("/tmp/made/allocator.so", tmp_path)
    wheel = stub_runtime(tmp_path, "hang")
    content = next(tmp_path.rglob("allocator.so")).read_bytes()
    with_file(wheel, folder, f"onnxruntime/capi/{library.name}", content)
    built = (("package:x", ready(store).store.objects.put(folder), {"preload": library.name, "base": IMAGE}),)
    context = {"requires": [], "python": "", "wheels": [], "refused": ""}
    outcome = run_task(Task("provision:x", "provision", "key", {"container": IMAGE}, built, store, context))
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert outcome.result["probe"]["allocators"] == [library.name]
    assert outcome.result["probe"]["malloc"] == library.name
    assert Environment.from_json(outcome.result["environment"]).identity != outcome.identity


def test_a_clean_room_has_the_wheel_and_says_what_it_is(
    engine: Engine, base_image: str, store: str, tmp_path: Path
) -> None:
    wheel = stub_runtime(tmp_path, "hang")
    found = in_clean_room(wheel, IMAGE, "", ready(store))
    assert found["probe"]["ort_version"] == "1.99.0"
    assert found["image"].startswith("sha256:")
    with pytest.raises(ProvisionError, match="the wheel does not bring it"):
        in_clean_room(wheel, IMAGE, "libmimalloc.so.3", ready(store))
    broken = with_file(wheel, tmp_path / "broken", "onnxruntime/__init__.py", b"import ctypes; ctypes.string_at(0)")
    with pytest.raises(BuildError, match="is installed in a clean container, and does not work: crashed with SIGSEGV"):
        in_clean_room(broken, IMAGE, "", ready(store))


# All of it

MATRIX = f"""
[limits]
timing_s = 0.4
rounds = 1
memory = "1GB"
[models.magika]
path = "package:magika==1.0.3/magika/models/standard_v3_3/model.onnx"
validation = {{ source = "python:inputs.py:magika", limit = 4 }}
[targets.here]
from = "package"
requires = ["{ORT}"]
container = "never"
[targets.inside]
from = "package"
requires = ["{ORT}"]
container = "{IMAGE}"
[targets.aborting]
from = "wheel"
wheel = "onnxruntime-1.99.0-py3-none-any.whl"
container = "{IMAGE}"
[recipes.int8]
passes = [{{ use = "quantize-dynamic", weight_type = "QUInt8" }}]
[reference]
requires = ["{ORT}"]
[[matrix]]
targets = ["here"]
recipes = ["none"]
[[matrix]]
targets = ["inside"]
[[matrix]]
targets = ["aborting"]
recipes = ["none"]
"""


def test_cells_run_inside_and_outside_in_one_matrix(engine: Engine, base_image: str, tmp_path: Path) -> None:
    stub_runtime(tmp_path, "abort")
    shutil.copyfile(ROOT / "examples/default/inputs.py", tmp_path / "inputs.py")
    (tmp_path / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    store = str(tmp_path / "store")
    done = ortforge(tmp_path, "run", "--store", store, "--json")
    assert done.code == 1, done.err
    report = done.report
    cells = {(cell["target"], cell["recipe"]): cell for cell in report["cells"]}
    assert cells["here", "none"]["status"] == "pass"
    assert cells["inside", "none"]["status"] in CORRECT, cells["inside", "none"]["reasons"]
    assert cells["inside", "none"]["timing"]["pairs"] >= 2
    assert cells["inside", "int8"]["status"] in CORRECT | {"inaccurate"}, cells["inside", "int8"]["reasons"]
    assert cells["inside", "none"]["parity"]["worst"]["cosine"] > 0.999999
    assert cells["aborting", "none"]["status"] == "crashed"
    assert "SIGABRT" in " ".join(cells["aborting", "none"]["reasons"])
    assert report["runtimes"]["inside"]["python"].startswith("3.13.")
    assert report["runtimes"]["inside"]["container"] == IMAGE
    assert report["runtimes"]["here"]["container"] == ""
    assert report["runtimes"]["inside"]["hash"] != report["runtimes"]["here"]["hash"]

    again = ortforge(tmp_path, "run", "--store", store, "--json")
    assert again.report["run"]["steps"]["run"] == 1, "only what failed is tried again"
    assert not workers(engine, tmp_path)
