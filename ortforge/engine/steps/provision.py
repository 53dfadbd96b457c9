"""provision: wheels become an environment with an identity, and ORT inside it is asked what it is."""

from __future__ import annotations

from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import CANCEL, Work, failed_job
from ortforge.runtime.environment import EnvironmentRequest, provision
from ortforge.runtime.supervisor import Limits, run_job

_PROBE_LIMITS = Limits(import_s=120, load_s=60, run_s=60, memory=4 << 30)


def run(task: Task, work: Work) -> TaskOutcome:
    """Make the environment; its identity covers every wheel, the interpreter and the platform."""
    wheels = tuple(Path(wheel) for wheel in task.context["wheels"])
    if task.inputs:
        # A tools environment: the bare runtime's request again, with what passes and datasets need on top.
        bare = task.inputs[0][2]
        pins = tuple(f"{package['name']}=={package['version']}" for package in bare["environment"]["packages"])
        local = {wheel.name.split("-")[0].replace("_", "-").lower() for wheel in wheels}
        requires = tuple(pin for pin in pins if pin.split("==")[0].replace("_", "-").lower() not in local)
        python = bare["probe"]["python"]
        request = EnvironmentRequest(requires, python, wheels, tuple(task.parameters["extra"]))
    else:
        request = EnvironmentRequest(tuple(task.parameters["requires"]), task.parameters["python"], wheels, ())
    environment = provision(request, work.store.envs)
    facts = environment.to_json()
    with work.store.objects.scratch() as scratch:
        interpreter = work.interpreter(facts)
        probe = run_job(interpreter, {"op": "probe"}, limits=_PROBE_LIMITS, workdir=scratch, cancel=CANCEL)
    if probe.status != "ok":
        return failed_job(probe, "the runtime was installed, and ONNX Runtime does not start in it")
    return TaskOutcome("ok", environment.identity, {"environment": facts, "probe": probe.result})
