"""transform: one pass applied to one model, in the tools environment of the runtime it is for."""

from __future__ import annotations

import shutil
from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file, seal
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.runtime.supervisor import run_job


def run(task: Task, work: Work) -> TaskOutcome:
    """Apply the pass; the identity is the digest of the new artefact folder."""
    (_, model, before), (_, _, tools), *rest = task.inputs
    parameters = task.parameters
    objects = work.store.objects
    with objects.scratch() as scratch, objects.reading(model) as folder:
        output = scratch / "artefact"
        output.mkdir()
        source = model_file(folder)
        target = output / f"model{parameters['suffix']}"
        job = {
            "op": "apply",
            "module": task.context["module"],
            "model": str(source),
            "output": str(target),
            "parameters": dict(parameters["parameters"]),
            "samples": str(objects.get(rest[0][1])) if rest else None,
            "ep": parameters.get("ep", "cpu"),
            "ep_name": parameters.get("providers", [["CPUExecutionProvider", {}]])[0][0],
            "ep_options": parameters.get("providers", [["CPUExecutionProvider", {}]])[0][1],
            "ort_version": tools["probe"]["ort_version"],
            "cpu_flags": parameters.get("cpu_flags", []),
        }
        jobdir = scratch / "job"
        jobdir.mkdir()
        interpreter = work.interpreter(tools["environment"])
        outcome = run_job(interpreter, job, limits=limits_of(task.context), workdir=jobdir, cancel=work.cancel)
        if outcome.status != "ok":
            return failed_job(outcome, f"pass {parameters['pass']}")
        details = dict(outcome.result["details"])
        target = output / details.pop("file", target.name)
        if _same_bytes(source, target):
            # Nothing changed: keep the input's own folder, so that the artefact is the same object.
            shutil.rmtree(output)
            shutil.copytree(source.parent, output)
            size, stamp = before["bytes"], before.get("stamp")
        else:
            stamp = details.pop("stamp", None) or before.get("stamp")
            size = seal(output, target.name, stamp)
        details.pop("stamp", None)
        facts = {
            "bytes": size,
            "warnings": [*before.get("warnings", []), *details.pop("warnings", [])],
            "stamp": stamp,
            "changed": {**before.get("changed", {}), parameters["pass"]: details},
            "note": outcome.note,
        }
        return TaskOutcome("ok", objects.put(output), facts, log=outcome.log)


def _same_bytes(left: Path, right: Path) -> bool:
    return (
        left.name == right.name
        and left.stat().st_size == right.stat().st_size
        and left.read_bytes() == right.read_bytes()
    )
