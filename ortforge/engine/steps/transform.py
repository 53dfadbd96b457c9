"""transform: one pass applied to one model, in the tools environment of the runtime it is for."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import (
    add_custom_ops,
    custom_ops_of,
    model_file,
    providers_for,
    seal,
    session_for,
    settings_of,
)
from ortforge.engine.pairs import alone
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.plan.stamp import joined
from ortforge.runtime.supervisor import run_job
from ortforge.worker.session import laid_over


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
            "inputs": before.get("inputs") or {},
        }
        how = parameters.get("measures")
        if how is not None:
            session = session_for(how["session"], before)
            providers = providers_for(how["providers"], before)
            job |= {"providers": providers, "session": session, "tolerance": how["tolerance"]}
            job["other_arithmetic"] = how.get("other_arithmetic", "")
        jobdir = scratch / "job"
        jobdir.mkdir()
        interpreter = work.interpreter(tools["environment"], how and how["environment"])
        with alone(work) if how is not None else nullcontext():
            outcome = run_job(
                interpreter, job, limits=limits_of(task.context), workdir=jobdir, cancel=work.cancel, hear=work.say
            )
        if outcome.status != "ok":
            return failed_job(outcome, f"pass {parameters['pass']}")
        details = dict(outcome.result["details"])
        target = output / details.pop("file", target.name)
        tuned = {name: details.pop(name, None) or {} for name in ("session", "ep_options")}
        settings = settings_of(
            {
                "session": laid_over(before.get("session") or {}, tuned["session"]),
                "ep_options": {**(before.get("ep_options") or {}), **tuned["ep_options"]},
            }
        )
        if _same_bytes(source, target) and settings == settings_of(before):
            # Nothing changed: keep the input's own folder, so that the artefact is the same object.
            shutil.rmtree(output)
            shutil.copytree(source.parent, output)
            size, stamp = before["bytes"], before.get("stamp")
            details["no_op"] = True
        else:
            stamp = joined(before.get("stamp"), details.pop("stamp", None))
            size = seal(output, target.name, stamp, settings)
            add_custom_ops(output, custom_ops_of(source.parent))
        details.pop("stamp", None)
        facts = {
            "bytes": size,
            "warnings": [*before.get("warnings", []), *details.pop("warnings", [])],
            "stamp": stamp,
            "inputs": {**before.get("inputs", {}), **details.pop("inputs", {})},
            # The types of the model as it came, which the reference has, too.
            "outputs": {**details.pop("outputs", {}), **before.get("outputs", {})},
            "changed": {**before.get("changed", {}), parameters["pass"]: details},
            "note": outcome.note,
            **settings,
        }
        return TaskOutcome("ok", objects.put(output), facts, log=outcome.log)


def _same_bytes(left: Path, right: Path) -> bool:
    return (
        left.name == right.name
        and left.stat().st_size == right.stat().st_size
        and left.read_bytes() == right.read_bytes()
    )
