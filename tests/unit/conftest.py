"""What the tests of the worker and its supervisor share: real processes on the Python that runs the tests."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ortforge.runtime import workerfiles
from ortforge.runtime.supervisor import Interpreter, JobOutcome, Limits, run_job

Supervise = Callable[..., JobOutcome]
ApplyJob = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def worker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the worker's copy."""
    folder, _ = workerfiles.install(tmp_path_factory.mktemp("store"))
    return folder


@pytest.fixture
def interpreter(worker_folder: Path) -> Interpreter:
    return Interpreter.local(Path(sys.executable), worker=worker_folder)


@pytest.fixture
def supervise(worker_folder: Path, tmp_path: Path) -> Supervise:
    """Run a job in a supervised process; keywords are limits, ``environment``, ``cancel`` or ``retry_crash``."""
    jobs = 0

    def run(
        job: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        interpreter: Interpreter | None = None,
        retry_crash: bool = True,
        cancel: Any = None,
        **limits: Any,
    ) -> JobOutcome:
        nonlocal jobs
        jobs += 1
        workdir = tmp_path / f"job-{jobs}"
        workdir.mkdir()
        used = interpreter or Interpreter.local(Path(sys.executable), worker=worker_folder, environment=environment)
        given = Limits(**{"memory": 2 << 30, **limits})
        return run_job(used, job, limits=given, workdir=workdir, retry_crash=retry_crash, cancel=cancel)

    return run


@pytest.fixture
def apply_job(tmp_path: Path) -> ApplyJob:
    """Make an ``apply`` job from the body of a pass; the body may use ``job`` and what it imports."""

    def make(body: str) -> dict[str, Any]:
        folder = tmp_path / f"pass-{len(list(tmp_path.glob('pass-*')))}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"a model")
        source = "import ctypes, os, signal, sys, time\n\ndef apply(job):\n" + textwrap.indent(
            textwrap.dedent(body), "    "
        )
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
            "ort_version": "1.32.0",
            "cpu_flags": [],
        }

    return make
