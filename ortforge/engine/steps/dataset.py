"""dataset: a reference to data becomes a folder of samples in the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ortforge.api import DatasetSource, Task, TaskOutcome
from ortforge.engine.unchanged import files_below, refuse_changed
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.runtime.supervisor import Interpreter, JobOutcome, run_job

REPEATED_SAMPLES: Final = 3
"""Samples of a second call that are compared with the first call's."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Make the samples in the tools environment; the identity is the digest of the samples folder.

    The result names the files that code of the user read (``files``), and says how a second call of that code differs
    from the first (``repeated``, ``""`` when it does not).
    """
    (_, _, model), (_, _, tools) = task.inputs
    if model.get("unloaded"):
        return _no_samples(work, str(model["unloaded"]))
    source = work.plugins.datasets[task.parameters["scheme"]]
    with work.store.objects.scratch() as scratch:
        output = scratch / "samples"
        job = {
            "op": "materialize",
            "module": source.module,
            "reference": task.context["reference"],
            "base": task.context["base"],
            "options": dict(task.parameters["options"]),
            "inputs": model["inputs"],
            "limit": task.parameters["limit"],
            "output": str(output),
            "record_files": source.runs_user_code,
        }
        interpreter = work.interpreter(tools["environment"])
        outcome = _materialize(job, interpreter, task, work, scratch / "job")
        if outcome.status != "ok":
            return failed_job(outcome, "the samples could not be made")
        _refuse_changed_data(source, task)
        result = dict(outcome.result)
        if source.runs_user_code:
            again = {**job, "output": str(scratch / "again"), "record_files": False, "stop_after": REPEATED_SAMPLES}
            second = _materialize(again, interpreter, task, work, scratch / "second")
            result["repeated"] = _difference(output, scratch / "again", second, result)
        return TaskOutcome("ok", work.store.objects.put(output), result)


def _materialize(job: Mapping[str, Any], interpreter: Interpreter, task: Task, work: Work, folder: Path) -> JobOutcome:
    folder.mkdir()
    return run_job(interpreter, job, limits=limits_of(task.context), workdir=folder, cancel=work.cancel)


def _refuse_changed_data(source: DatasetSource, task: Task) -> None:
    base, reference = Path(task.context["base"]), task.context["reference"]
    place = base / (reference.rpartition(":")[0] if source.runs_user_code else reference)
    now = source.fingerprint(reference, base)
    refuse_changed(task.parameters["fingerprint"], now, f"{source.scheme}:{reference}", lambda: files_below(place))


def _difference(first: Path, again: Path, second: JobOutcome, result: Mapping[str, Any]) -> str:
    """Return how a second call's samples differ from the first call's, or ``""``."""
    if second.status != "ok":
        return f"the second call ended with {second.status}: {second.reason}"
    expected = min(REPEATED_SAMPLES, int(result["count"]))
    if second.result["count"] != expected:
        return f"the second call gave {second.result['count']} samples, the first one {result['count']}"
    for number in range(expected):
        with np.load(first / f"{number:06}.npz") as one, np.load(again / f"{number:06}.npz") as other:
            if one.files != other.files or not all(_equal(one[name], other[name]) for name in one.files):
                return f"sample {number} differs between two calls"
    return ""


def _equal(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _no_samples(work: Work, why: str) -> TaskOutcome:
    """Return an empty samples folder: the model's inputs are not known, and each runtime still is to load the file."""
    from ortforge.worker.samples import SampleWriter

    with work.store.objects.scratch() as scratch:
        SampleWriter(scratch / "samples").close(source=f"none: {why}")
        return TaskOutcome("ok", work.store.objects.put(scratch / "samples"), {"count": 0, "labels": False})
