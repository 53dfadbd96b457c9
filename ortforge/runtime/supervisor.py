"""Runs worker jobs so that whatever happens in them, crash, hang, hunger or garbage, becomes an outcome with a reason.

:func:`run_job` does one job in one process; :class:`WorkerSession` keeps a process for interactive jobs. Both may be
used from several threads. The protocol is described in docs/formats.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ortforge.runtime.container_setting import VARIABLE, Setting
from ortforge.runtime.device import share
from ortforge.runtime.process import Ended, Limits, WorkerProcess
from ortforge.runtime.workerfiles import PACKAGE

__all__ = ["Interpreter", "JobOutcome", "Limits", "WorkerDied", "WorkerSession", "run_job", "worker_environment"]

_STATUS_OF_KIND: Final = {"memory": "out-of-memory", "unsupported": "unsupported", "incompatible": "incompatible"}
"""Status of an ``error`` message by its kind; all others are ``failed``."""

_AFTER_ERROR_S: Final = 2.0
"""What a process may take to end after it has reported an error."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How to start a worker.

    :param argv: what comes before ``-m ortforge_worker.worker``: a Python, or the relay to one in a container.
    :param environment: all variables of the process.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def local(cls, python: Path, *, worker: Path, environment: Mapping[str, str] | None = None) -> Interpreter:
        """Return the interpreter of an environment on this machine.

        :param worker: the folder that holds the worker's copy (``workerfiles.install``).
        :param environment: variables on top of the isolated ones; a ``PYTHONPATH`` comes after the worker's folder.
        """
        return cls((str(python),), worker_environment(python, worker, environment or {}))

    @classmethod
    def container(
        cls, image: str, python: Path, *, worker: Path, folder: Path, environment: Mapping[str, str] | None = None
    ) -> Interpreter:
        """Return the interpreter of an environment in a container, behind a relay that stands for it here.

        The worker may use the processors that this process may. Of the caller's variables it gets none.

        :param image: the image's id. :param folder: the environment's folder, at the same path inside and outside.
        :param environment: variables on top of the image's and the isolated ones.
        """
        processors, cpus = share()
        setting = Setting(
            image=image,
            python=str(python),
            folders=(str(folder), str(worker)),
            environment={"HOME": "/tmp", **_isolated(worker, environment or {})},  # noqa: S108 - the container's own
            cpus=cpus,
            processors=processors,
        )
        relay = (sys.executable, "-P", "-m", "ortforge.runtime.container_relay")
        return cls(relay, {**os.environ, VARIABLE: setting.to_json()})


def worker_environment(python: Path, worker: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker: the caller's, without what would lead to the caller's own Python.

    ``PYTHONDONTWRITEBYTECODE`` goes with all other ``PYTHON…`` variables: without .pyc files every worker would start
    three times as slowly. ORT's telemetry is off.
    """
    ours = os.environ.get("VIRTUAL_ENV")
    dropped = ("PYTHON", "CONDA_", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    path = variables.get("PATH", os.defpath).split(os.pathsep)
    kept = [entry for entry in path if not ours or not entry.startswith(ours)]
    variables["PATH"] = os.pathsep.join([str(python.parent), *kept])
    return {**variables, **_isolated(worker, extra)}


def _isolated(worker: Path, extra: Mapping[str, str]) -> dict[str, str]:
    search = [str(worker), extra["PYTHONPATH"]] if extra.get("PYTHONPATH") else [str(worker)]
    return {
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        **extra,
        "PYTHONPATH": os.pathsep.join(search),
    }


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What became of a job.

    :param status: ``ok``, ``crashed``, ``out-of-memory``, ``timeout``, ``failed``, ``unsupported`` or ``incompatible``.
    :param reason: a sentence, unless ``ok``. :param result: what ``result.json`` holds, when ``ok``.
    :param log: the last 4,000 characters of standard error. :param note: a sentence about an ``ok`` that was not smooth
        (``flaky: …``, ``crashed at exit …``), or ``""``.
    :param peak_rss: most resident bytes seen, over the process and its children. :param seconds: wall time of the last
        attempt; :param cpu_s: its processor time. :param attempts: how often the job was started.
    :param kind: the protocol's kind of an error that the worker put into words (``input``, ``model`` …), or ``""``;
        :param phase: the phase that such an error happened in, or ``""``.
    """

    status: str
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    note: str = ""
    peak_rss: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    attempts: int = 1
    kind: str = ""
    phase: str = ""


class WorkerDied(Exception):  # noqa: N818 - says what happened; the outcome says why
    """An interactive worker is gone, or reported an error; ``outcome`` is never ``ok``."""

    def __init__(self, outcome: JobOutcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def run_job(
    interpreter: Interpreter,
    job: Mapping[str, Any],
    *,
    limits: Limits,
    workdir: Path,
    retry_crash: bool = True,
    cancel: threading.Event | None = None,
    hear: Callable[[str], None] | None = None,
) -> JobOutcome:
    """Do one job in a process of its own; never raises for what happens in it.

    :param workdir: an existing folder; each attempt's log and scratch files go to ``workdir/attempt-N``.
    :param retry_crash: try once more after a crash. If that succeeds the outcome is ``ok`` with a note ``flaky: …``.
    :param cancel: when it is set, the job is killed within half a second (status ``failed``).
    :param hear: is told what the job says of how far it is.
    :raises OSError: ``workdir`` cannot be written.
    """
    first = _attempt(interpreter, job, limits, workdir / "attempt-1", cancel, hear)
    if first.status != "crashed" or not retry_crash or (cancel is not None and cancel.is_set()):
        return first
    _clear_output(job)
    second = _attempt(interpreter, job, limits, workdir / "attempt-2", cancel, hear)
    if second.status == "crashed":
        return replace(
            second,
            attempts=2,
            reason=f"{second.reason}; a second try did the same" if second.reason == first.reason else second.reason,
        )
    flaky = f"flaky: the first try {first.reason}"
    return replace(second, attempts=2, note="; ".join(part for part in (flaky, second.note) if part))


def _clear_output(job: Mapping[str, Any]) -> None:
    """Remove what a crashed pass left in the folder that is its own; other jobs begin by doing so themselves."""
    if job.get("op") != "apply":
        return
    for path in Path(job["output"]).parent.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _start(
    interpreter: Interpreter,
    job: Mapping[str, Any],
    limits: Limits,
    folder: Path,
    cancel: threading.Event | None,
    hear: Callable[[str], None] | None = None,
) -> WorkerProcess:
    """Start a worker in a new folder and send it its job.

    :raises OSError: the folder cannot be made, or the interpreter cannot be started.
    """
    folder.mkdir(parents=True)
    argv = [*interpreter.argv, "-m", PACKAGE]
    process = WorkerProcess(argv, interpreter.environment, limits=limits, folder=folder, cancel=cancel, hear=hear)
    own = {
        "result": str(folder / "result.json"),
        "memory": limits.memory,
        "address_space": limits.memory if limits.address_space else None,
    }
    try:
        process.send({**job, "process": own})
    except BaseException:
        process.kill()
        raise
    return process


def _attempt(
    interpreter: Interpreter,
    job: Mapping[str, Any],
    limits: Limits,
    folder: Path,
    cancel: threading.Event | None,
    hear: Callable[[str], None] | None,
) -> JobOutcome:
    started = time.monotonic()
    try:
        process = _start(interpreter, job, limits, folder, cancel, hear)
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        return JobOutcome("failed", f"the interpreter {interpreter.argv[0]} cannot be started: {error}")
    with process:
        outcome = _listen(process, folder)
    return _with_usage(outcome, process, started)


def _listen(process: WorkerProcess, folder: Path) -> JobOutcome:
    try:
        message = process.receive()
    except Ended as end:
        return JobOutcome(end.status, end.reason)
    if message["type"] == "error":
        return _reported(process, message)
    if message["type"] != "done":
        return JobOutcome("failed", f"the worker answered {str(message)[:200]} to a job that is not interactive")
    note = process.finish(process.limits.exit_s)
    try:
        result = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        return JobOutcome("failed", f"the worker said it was done, and its result cannot be read: {error}")
    if not isinstance(result, dict):
        return JobOutcome("failed", "the worker said it was done, and its result is no JSON object")
    return JobOutcome("ok", result=result, note=note)


def _reported(process: WorkerProcess, message: Mapping[str, Any]) -> JobOutcome:
    process.finish(_AFTER_ERROR_S)
    kind = str(message.get("kind", "failed"))
    reason = str(message.get("message", "")) or "the worker reported an error without words"
    return JobOutcome(_STATUS_OF_KIND.get(kind, "failed"), reason, kind=kind, phase=str(message.get("phase", "")))


_API_TOO_NEW: Final = re.compile(r"requested API version \[(\d+)\] is not available, only \[(\d+), (\d+)\]")
"""What ORT prints, and raises nowhere, when a plugin EP's library was built for a newer ORT."""


def _with_log(outcome: JobOutcome, log: str) -> JobOutcome:
    """Add the log to an outcome, and what only the log says of an EP that cannot be used."""
    match = _API_TOO_NEW.search(log) if outcome.kind == "unsupported" else None
    if match is None:
        return replace(outcome, log=log)
    why = f"Its library wants version {match[1]} of ONNX Runtime's API, and this one has {match[2]} to {match[3]}."
    reason = f"{outcome.reason.rstrip('.')}. {why}"
    return replace(outcome, log=log, status="incompatible", kind="incompatible", reason=reason)


def _with_usage(outcome: JobOutcome, process: WorkerProcess, started: float) -> JobOutcome:
    told = outcome.result.get("peak_rss")
    return replace(
        _with_log(outcome, process.log()),
        peak_rss=max(process.peak_rss, told if isinstance(told, int) else 0),
        seconds=time.monotonic() - started,
        cpu_s=process.cpu_s,
    )


class WorkerSession:
    """An interactive worker (``time`` jobs), from its ``ready`` to the end of the ``with`` block.

    ``ready`` is what the worker said when it was ready. One thread at a time may ask.

    :param workdir: an existing folder; log and scratch files go to ``workdir/session``.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        job: Mapping[str, Any],
        *,
        limits: Limits,
        workdir: Path,
        cancel: threading.Event | None = None,
    ) -> None:
        self.ready: Mapping[str, Any] = {}
        self._interpreter = interpreter
        self._job = job
        self._limits = limits
        self._folder = workdir / "session"
        self._cancel = cancel
        self._process: WorkerProcess | None = None
        self._started = 0.0

    def __enter__(self) -> WorkerSession:
        """Start the worker and wait until it is ready.

        :raises WorkerDied: it never was.
        """
        self.start()
        return self.wait_until_ready()

    def start(self) -> None:
        """Start the worker without waiting for it, so that several can start at once.

        The calling thread must outlive the worker: the kernel ends a worker with the thread that started it.

        :raises WorkerDied: the interpreter cannot be started.
        """
        self._started = time.monotonic()
        try:
            self._process = _start(self._interpreter, self._job, self._limits, self._folder, self._cancel)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            reason = f"the interpreter {self._interpreter.argv[0]} cannot be started: {error}"
            raise WorkerDied(JobOutcome("failed", reason)) from error

    def wait_until_ready(self) -> WorkerSession:
        """Wait until a started worker is ready; any thread may wait.

        :raises WorkerDied: it never was.
        """
        assert self._process is not None
        try:
            self.ready = self._reply(None, "")["ready"]
        except KeyError:
            self._process.kill()
            outcome = JobOutcome("failed", "the worker's first answer was not that it is ready")
            raise WorkerDied(_with_usage(outcome, self._process, self._started)) from None
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()

    def ask(self, command: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Send a command and return its answer. After ``{"op": "finish"}`` the worker is gone.

        :param timeout: seconds for the answer.
        :raises WorkerDied: the worker crashed, was killed for a limit, or reported an error.
        """
        if self._process is None:
            raise RuntimeError("ask() needs a session that was entered: with WorkerSession(…) as session")
        if self._process.returncode is None:
            self._process.send(command)
        answer = self._reply(timeout, f"waiting for the answer to {command.get('op')!r}")
        if command.get("op") == "finish":
            self._process.finish(self._limits.exit_s)
        return answer

    def _reply(self, timeout: float | None, waiting_for: str) -> dict[str, Any]:
        assert self._process is not None
        try:
            message = self._process.receive(timeout, waiting_for)
        except Ended as end:
            outcome = JobOutcome(end.status, end.reason)
        else:
            if message["type"] == "reply" and isinstance(message.get("reply"), dict):
                return dict(message["reply"])
            if message["type"] == "error":
                outcome = _reported(self._process, message)
            else:
                self._process.kill()
                outcome = JobOutcome("failed", f"the worker answered {str(message)[:200]} to a command")
        raise WorkerDied(_with_usage(outcome, self._process, self._started))
