"""How workers die, and what the supervisor makes of it. Every process here is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from ortforge.runtime.process import MOST_LOG_BYTES
from ortforge.runtime.signals import read_death
from ortforge.runtime.supervisor import Interpreter, JobOutcome, Limits, WorkerDied, WorkerSession, run_job
from ortforge.worker.samples import SampleWriter

Supervise = Callable[..., JobOutcome]
ApplyJob = Callable[[str], dict[str, object]]

LIMITS = Limits(memory=2 << 30)


def gone(pid: int, within: float = 5.0) -> bool:
    """Say whether a process ends (a zombie has) within some seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def eventually(read: Callable[[], str], within: float = 20.0) -> str:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if found := read():
                return found
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError("it did not come")


def shell(script: str) -> Interpreter:
    """A runtime that is no Python at all."""
    return Interpreter(("/bin/sh", "-c", script), dict(os.environ))


# A job that goes well


def test_a_job_that_goes_well_gives_its_result(supervise: Supervise, apply_job: ApplyJob) -> None:
    outcome = supervise(apply_job("print('to the log')"))
    assert (outcome.status, outcome.reason, outcome.note, outcome.attempts) == ("ok", "", "", 1)
    assert outcome.result == {"details": {"done": True}}
    assert "to the log" in outcome.log
    assert outcome.seconds > 0
    assert outcome.cpu_s > 0
    assert outcome.peak_rss > 1 << 20


def test_a_worker_is_isolated_from_its_caller(
    supervise: Supervise, apply_job: ApplyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere/.venv")
    monkeypatch.setenv("PATH", f"/somewhere/.venv/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    outcome = supervise(
        apply_job(
            """
            import resource
            assert "ortforge" not in sys.modules
            return_value = {
                "environ": dict(os.environ), "path": sys.path, "cores": resource.getrlimit(resource.RLIMIT_CORE),
                "leader": os.getsid(0) == os.getpid(), "stdin": sys.stdin.read(),
            }
            job.output.write_bytes(b"x")
            return return_value
            """
        ),
        environment={"MINE": "yes"},
    )
    seen = outcome.result["details"]
    assert not {"PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV"} & set(seen["environ"])
    assert seen["environ"]["ORT_DISABLE_TELEMETRY"] == "1"
    assert seen["environ"]["MINE"] == "yes"
    assert "/somewhere" not in seen["environ"]["PATH"]
    assert "/somewhere/else" not in seen["path"]
    assert seen["cores"] == [0, 0]
    assert seen["leader"]
    assert seen["stdin"] == ""


# Crashes


@pytest.mark.parametrize(
    ("body", "signal_name"),
    [
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGFPE)", "SIGFPE"),
        ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        (
            """
            import mmap
            with open("weights", "wb+") as file:
                file.truncate(1 << 16)
                weights = mmap.mmap(file.fileno(), 0)
                file.truncate(0)
            print(weights[1 << 15])
            """,
            "SIGBUS",
        ),
    ],
)
def test_a_crash_is_named_by_its_signal_and_tried_twice(
    supervise: Supervise, apply_job: ApplyJob, body: str, signal_name: str
) -> None:
    outcome = supervise(apply_job(body))
    assert outcome.status == "crashed"
    assert f"crashed with {signal_name} during apply" in outcome.reason
    assert outcome.attempts == 2
    assert "the_pass.py" in outcome.log  # where in Python it happened


def test_a_crash_that_does_not_come_again_is_flaky(supervise: Supervise, apply_job: ApplyJob, tmp_path: Path) -> None:
    marker = tmp_path / "crashed-before"
    outcome = supervise(
        apply_job(
            f"""
            assert not list(job.output.parent.iterdir())  # nothing is left of the first try
            (job.output.parent / "weights.bin").write_bytes(b"half of them")
            if not os.path.exists({str(marker)!r}):
                open({str(marker)!r}, "w").close()
                ctypes.string_at(0)
            """
        )
    )
    assert outcome.status == "ok"
    assert outcome.note.startswith("flaky: the first try crashed with SIGSEGV")
    assert outcome.attempts == 2


def test_a_crash_is_not_retried_when_that_is_not_wanted(supervise: Supervise, apply_job: ApplyJob) -> None:
    assert supervise(apply_job("os.abort()"), retry_crash=False).attempts == 1


def test_a_runtime_that_crashes_when_imported(supervise: Supervise, tmp_path: Path) -> None:
    fake = tmp_path / "fake" / "onnxruntime"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("import ctypes\nctypes.string_at(0)\n")
    outcome = supervise({"op": "probe"}, environment={"PYTHONPATH": str(fake.parent)})
    assert outcome.status == "crashed"
    assert "SIGSEGV during import" in outcome.reason


def test_a_crash_at_exit_does_not_cost_the_result(supervise: Supervise, apply_job: ApplyJob) -> None:
    outcome = supervise(apply_job("import atexit\natexit.register(ctypes.string_at, 0)"))
    assert outcome.status == "ok"
    assert outcome.result == {"details": {"done": True}}
    assert outcome.note == "crashed at exit with SIGSEGV after its result was complete"


def test_a_hang_at_exit_does_not_cost_the_result(supervise: Supervise, apply_job: ApplyJob) -> None:
    outcome = supervise(apply_job("import atexit\natexit.register(time.sleep, 600)"), exit_s=0.5)
    assert outcome.status == "ok"
    assert "did not end within 0.5 s" in outcome.note


def test_garbage_after_the_result_does_not_cost_it(supervise: Supervise, apply_job: ApplyJob) -> None:
    late = """
    import atexit
    def write_everywhere():
        for number in os.listdir("/proc/self/fd"):
            try:
                os.write(int(number), b"late words\\n")
            except OSError:
                pass
    atexit.register(write_everywhere)
    """
    outcome = supervise(apply_job(late))
    assert outcome.status == "ok"
    assert "after its result was complete" in outcome.note
    assert "late words" in outcome.note


# Memory


def test_a_kill_from_outside_is_probably_the_kernels(supervise: Supervise, apply_job: ApplyJob) -> None:
    outcome = supervise(apply_job("os.kill(os.getpid(), signal.SIGKILL)"))
    assert outcome.status == "out-of-memory"
    assert "SIGKILL" in outcome.reason
    assert "not by ortforge" in outcome.reason


def test_resident_memory_is_limited(supervise: Supervise, apply_job: ApplyJob) -> None:
    hungry = "eaten = []\nwhile True:\n    eaten.append(b'x' * (8 << 20))\n    time.sleep(0.01)"
    outcome = supervise(apply_job(hungry), memory=200 << 20, address_space=False, apply_s=60)
    assert outcome.status == "out-of-memory"
    assert "its limit is 200.0 MiB" in outcome.reason
    assert outcome.peak_rss > 200 << 20


def test_the_memory_of_children_counts(supervise: Supervise, apply_job: ApplyJob) -> None:
    hungry = """
    import subprocess
    child = "import time\\neaten = b'x' * (400 << 20)\\ntime.sleep(600)"
    subprocess.run([sys.executable, "-c", child])
    """
    outcome = supervise(apply_job(hungry), memory=300 << 20, address_space=False, apply_s=60)
    assert outcome.status == "out-of-memory"


def test_one_huge_allocation_fails_at_once(supervise: Supervise, apply_job: ApplyJob) -> None:
    outcome = supervise(apply_job("import numpy\nnumpy.ones(1 << 36)"), memory=256 << 20)
    assert outcome.status == "out-of-memory"
    assert outcome.kind == "memory"
    assert outcome.peak_rss < 256 << 20


def test_an_abort_for_want_of_memory_is_no_crash(supervise: Supervise, apply_job: ApplyJob) -> None:
    said = "terminate called after throwing an instance of 'std::bad_alloc'"
    outcome = supervise(apply_job(f'os.write(2, b"{said}\\n")\nos.abort()'))
    assert outcome.status == "out-of-memory"
    assert outcome.attempts == 1


def test_an_abort_for_want_of_a_thread_says_so() -> None:
    death = read_death(-signal.SIGABRT, "load", "what():  Resource temporarily unavailable\n")
    assert death.status == "failed"
    assert "thread" in death.reason


# Time


@pytest.mark.parametrize("body", ["time.sleep(600)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass"])
def test_a_hang_is_killed_even_if_it_ignores_being_asked(supervise: Supervise, apply_job: ApplyJob, body: str) -> None:
    outcome = supervise(apply_job(body), apply_s=0.7)
    assert outcome.status == "timeout"
    assert "0.7 s" in outcome.reason
    assert outcome.attempts == 1
    assert outcome.seconds < 20


def test_each_phase_has_its_own_clock(supervise: Supervise, tmp_path: Path) -> None:
    fake = tmp_path / "fake" / "onnxruntime"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("import time\ntime.sleep(600)\n")
    outcome = supervise({"op": "probe"}, environment={"PYTHONPATH": str(fake.parent)}, import_s=1, run_s=600)
    assert outcome.status == "timeout"
    assert "still starting and importing after 1 s" in outcome.reason


def test_a_runtime_that_never_reads_its_job(supervise: Supervise) -> None:
    job = {"op": "probe", "filling": "x" * (1 << 20)}  # more than a pipe holds
    outcome = supervise(job, interpreter=shell("exec sleep 600"), import_s=0.5)
    assert outcome.status == "timeout"


def test_cancelling_ends_a_job_soon(supervise: Supervise, apply_job: ApplyJob) -> None:
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    outcome = supervise(apply_job("time.sleep(600)"), cancel=cancel)
    assert outcome.status == "failed"
    assert "interrupted" in outcome.reason
    assert outcome.seconds < 20


def test_waiting_costs_next_to_no_processor_time(supervise: Supervise, apply_job: ApplyJob) -> None:
    supervise(apply_job("pass"))
    before = time.process_time()
    outcome = supervise(apply_job("time.sleep(1.5)"))
    assert outcome.status == "ok"
    assert (time.process_time() - before) / outcome.seconds < 0.05


# Garbage


def test_printing_on_every_level_is_no_garbage(supervise: Supervise, apply_job: ApplyJob) -> None:
    outcome = supervise(
        apply_job("print('python', flush=True)\nos.write(1, b'descriptor\\n')\nos.system('echo child')")
    )
    assert outcome.status == "ok"
    assert all(word in outcome.log for word in ("python", "descriptor", "child"))


def test_what_a_job_says_of_how_far_it_is_is_heard_at_once_and_cut(
    apply_job: ApplyJob, interpreter: Interpreter, tmp_path: Path
) -> None:
    go, heard = tmp_path / "go", list[str]()

    def hear(text: str) -> None:
        heard.append(text)
        go.touch()  # the job waits for this: what is said is heard while it runs

    body = f"""
        import pathlib, time
        job.say("one of two")
        while not pathlib.Path({str(go)!r}).exists():
            time.sleep(0.01)
        job.say("x" * 5000)
    """
    outcome = run_job(interpreter, apply_job(body), limits=LIMITS, workdir=tmp_path / "job", hear=hear)
    assert outcome.status == "ok", outcome.reason
    assert heard == ["one of two", "x" * 200]
    deaf = run_job(interpreter, apply_job(body), limits=LIMITS, workdir=tmp_path / "deaf")
    assert deaf.status == "ok"


def test_garbage_between_the_messages_is_shown(supervise: Supervise, apply_job: ApplyJob) -> None:
    everywhere = """
    for number in range(3, 20):
        try:
            os.write(number, b"\\x00\\xffnot a message\\n")
        except OSError:
            pass
    time.sleep(600)
    """
    outcome = supervise(apply_job(everywhere), apply_s=30)
    assert outcome.status == "failed"
    assert "not a message" in outcome.reason


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("echo Welcome to this machine", "failed", "Welcome to this machine"),
        ("echo '[1, 2]'", "failed", "[1, 2]"),
        ("echo something is missing >&2; exit 3", "failed", "exit code 3 and no result: something is missing"),
        ("exit 0", "failed", "no result"),
        ("exec 1>&-; sleep 0.3; kill -SEGV $$", "crashed", "SIGSEGV"),
        ("exit 139", "crashed", "SIGSEGV"),  # as docker exec reports it
        ("""echo '{"type": "done"}'""", "failed", "result cannot be read"),
        ("""echo '{"type": "reply", "reply": {}}'; sleep 600""", "failed", "not interactive"),
    ],
)
def test_runtimes_that_are_no_workers(supervise: Supervise, script: str, status: str, words: str) -> None:
    outcome = supervise({"op": "probe"}, interpreter=shell(script), retry_crash=False)
    assert outcome.status == status
    assert words in outcome.reason


def test_a_flood_of_complaints_does_not_fill_the_disk(
    supervise: Supervise, apply_job: ApplyJob, tmp_path: Path
) -> None:
    flood = """
    line = b"the same warning again\\n" * 1000
    for turn in range(2000):
        os.write(2, line)
        if turn % 100 == 0:
            time.sleep(0.05)
    os.write(2, b"the last words\\n")
    """
    outcome = supervise(apply_job(flood))
    assert outcome.status == "ok"
    assert outcome.log.endswith("the last words\n")
    assert len(outcome.log) <= 4100
    assert sum(path.stat().st_size for path in tmp_path.rglob("stderr.log")) < MOST_LOG_BYTES + (32 << 20)


def test_an_interpreter_that_is_not_there(supervise: Supervise) -> None:
    outcome = supervise({"op": "probe"}, interpreter=Interpreter(("/no/such/python",), {}))
    assert outcome.status == "failed"
    assert "/no/such/python" in outcome.reason


def test_an_unknown_job(supervise: Supervise) -> None:
    outcome = supervise({"op": "dance"})
    assert outcome.status == "failed"
    assert "'dance'" in outcome.reason


# Nothing is left behind


def test_what_a_job_started_goes_with_it(supervise: Supervise, apply_job: ApplyJob, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    starts = f"""
    import subprocess
    same = subprocess.Popen(["sleep", "600"])
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    open({str(pids)!r}, "w").write(f"{{same.pid}} {{other.pid}}")
    time.sleep(600)
    """
    assert supervise(apply_job(starts), apply_s=3).status == "timeout"
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_a_child_that_outlives_its_job_is_ended(supervise: Supervise, apply_job: ApplyJob, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = f"import subprocess\nopen({str(pids)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    assert supervise(apply_job(body)).status == "ok"
    assert gone(int(pids.read_text()))


def test_a_worker_does_not_outlive_its_supervisor(apply_job: ApplyJob, worker_folder: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    # It holds the interpreter's lock, so nothing in Python can end this one.
    job = apply_job(f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nctypes.PyDLL(None).sleep(600)")
    script = f"""
    from pathlib import Path
    from ortforge.runtime.supervisor import *
    interpreter = Interpreter.local(Path({sys.executable!r}), worker=Path({str(worker_folder)!r}))
    run_job(interpreter, {job!r}, limits=Limits(memory=1 << 30), workdir=Path({str(tmp_path)!r}))
    """
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=environment)
    try:
        started = int(eventually(pid.read_text))
    finally:
        supervisor.kill()
        supervisor.wait()
    assert gone(started)


def test_a_worker_and_its_children_end_with_its_input(
    apply_job: ApplyJob, interpreter: Interpreter, tmp_path: Path
) -> None:
    """As in a container, where the kernel's signal does not reach."""
    pid = tmp_path / "pid"
    child_pid = "str(subprocess.Popen(['sleep', '600']).pid)"
    body = f"import subprocess\nopen({str(pid)!r}, 'w').write({child_pid})\ntime.sleep(600)"
    worker = subprocess.Popen(
        [*interpreter.argv, "-m", "ortforge_worker.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=dict(interpreter.environment),
        cwd=tmp_path,
        start_new_session=True,
    )
    assert worker.stdin is not None
    with worker:
        worker.stdin.write(json.dumps(apply_job(body)).encode() + b"\n")
        worker.stdin.flush()
        child = int(eventually(pid.read_text))
        worker.stdin.close()
        assert worker.wait(10) == -signal.SIGKILL
    assert gone(child)


def test_siblings_go_on(apply_job: ApplyJob, interpreter: Interpreter, tmp_path: Path) -> None:
    bodies = ["ctypes.string_at(0)", "time.sleep(0.3)", "time.sleep(600)", "time.sleep(0.3)"]
    jobs = [apply_job(body) for body in bodies]

    def do(number: int) -> str:
        workdir = tmp_path / f"job-{number}"
        workdir.mkdir()
        limits = Limits(memory=1 << 30, apply_s=2)
        return run_job(interpreter, jobs[number], limits=limits, workdir=workdir).status

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(do, range(4))) == ["crashed", "ok", "timeout", "ok"]


# Interactive sessions


@pytest.fixture
def time_job(tmp_path: Path) -> dict[str, object]:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "relu.onnx"))
    writer = SampleWriter(tmp_path / "samples")
    for size in range(1, 4):
        writer.write({"x": np.ones((size, 3), np.float32)})
    writer.close()
    return {
        "op": "time",
        "model": str(tmp_path / "relu.onnx"),
        "samples": str(tmp_path / "samples"),
        "ep": "cpu",
        "providers": [["CPUExecutionProvider", {}]],
        "session": {"intra_op_threads": 1},
    }


def test_a_session_answers_turns_until_it_is_told_to_finish(
    interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path
) -> None:
    with WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path) as session:
        assert session.ready["load_s"] > 0
        assert session.ready["samples"] == 3
        assert session.ready["spinning_stop"] is True
        first = session.ask({"op": "turn", "iterations": 5, "discard": 2}, timeout=10)
        assert len(first["ns"]) == 5
        assert all(isinstance(ns, int) and ns > 0 for ns in first["ns"])
        second = session.ask({"op": "turn", "iterations": 1, "discard": 0}, timeout=10)
        assert second["start"] == 5 % 3  # goes on where the first turn ended
        assert session.ask({"op": "finish"}, timeout=10)["peak_rss"] > 1 << 20


def test_a_session_loads_its_model_again_after_the_turns(
    interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path
) -> None:
    with WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path) as session:
        session.ask({"op": "turn", "iterations": 1}, timeout=10)
        taken = session.ask({"op": "load", "times": 3, "discard": 1}, timeout=10)["ns"]
        assert len(taken) == 3 and min(taken) > 0
        with pytest.raises(WorkerDied) as death:
            session.ask({"op": "turn", "iterations": 1}, timeout=10)
    assert "not 'turn' here" in death.value.outcome.reason


def test_a_session_outlives_the_thread_that_started_it(
    interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path
) -> None:
    session = WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path)
    thread = threading.Thread(target=session.__enter__)
    thread.start()
    thread.join()
    try:
        time.sleep(0.2)
        assert len(session.ask({"op": "turn", "iterations": 2}, timeout=10)["ns"]) == 2
    finally:
        session.__exit__(None, None, None)


def test_a_session_that_is_killed(interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path) -> None:
    with WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path) as session:
        children = psutil.Process().children()
        next(child for child in children if "ortforge_worker" in " ".join(child.cmdline())).send_signal(signal.SIGSEGV)
        with pytest.raises(WorkerDied) as death:
            session.ask({"op": "turn", "iterations": 2}, timeout=10)
    assert death.value.outcome.status == "crashed"
    assert "SIGSEGV" in death.value.outcome.reason


def test_a_session_that_answers_too_late(interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path) -> None:
    session = WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path)
    with session, pytest.raises(WorkerDied) as death:
        session.ask({"op": "turn", "iterations": 1 << 40}, timeout=0.5)
    assert death.value.outcome.status == "timeout"
    assert "waiting for the answer to 'turn' after 0.5 s" in death.value.outcome.reason


def test_a_session_that_is_gone_keeps_its_reason(
    interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path
) -> None:
    with WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path) as session:
        for _ in range(2):
            with pytest.raises(WorkerDied) as death:
                session.ask({"op": "turn", "iterations": 1 << 40}, timeout=0.3)
            assert death.value.outcome.status == "timeout"


def test_a_session_that_is_told_nonsense(interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path) -> None:
    session = WorkerSession(interpreter, time_job, limits=LIMITS, workdir=tmp_path)
    with session, pytest.raises(WorkerDied) as death:
        session.ask({"op": "dance"}, timeout=5)
    assert death.value.outcome.status == "failed"
    assert "'dance'" in death.value.outcome.reason


def test_a_session_that_is_never_ready(interpreter: Interpreter, time_job: dict[str, object], tmp_path: Path) -> None:
    broken = {**time_job, "model": str(tmp_path / "nothing.onnx")}
    with pytest.raises(WorkerDied) as death, WorkerSession(interpreter, broken, limits=LIMITS, workdir=tmp_path):
        pass
    assert death.value.outcome.kind == "model"
    assert not [child for child in psutil.Process().children() if "ortforge_worker" in " ".join(child.cmdline())]
