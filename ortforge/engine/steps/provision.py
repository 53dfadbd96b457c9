"""provision: wheels become an environment with an identity, and ORT inside it is asked what it is."""

from __future__ import annotations

from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import Work, failed_job
from ortforge.runtime.environment import Environment, EnvironmentRequest, provision, same_runtime, tools_request
from ortforge.runtime.supervisor import Limits, run_job

_PROBE_LIMITS = Limits(import_s=120, load_s=60, run_s=60, memory=4 << 30)


def run(task: Task, work: Work) -> TaskOutcome:
    """Make the environment; its identity covers every wheel, the interpreter and the platform."""
    asked = task.context
    request = EnvironmentRequest(
        tuple(asked["requires"]), asked["python"], tuple(Path(wheel) for wheel in asked["wheels"]), ()
    )
    if task.inputs:
        # A tools environment: the bare runtime's request again, with what passes and datasets need on top.
        bare = Environment.from_json(task.inputs[0][2]["environment"])
        tools = tools_request(request, bare, task.parameters["extra"])
        environment = provision(tools, work.store.envs)
        difference = same_runtime(bare, environment, request)
        if difference:
            return TaskOutcome("failed", reason=f"the tools environment is not the runtime's: {difference}")
    else:
        environment = provision(request, work.store.envs)
    facts = environment.to_json()
    with work.store.objects.scratch() as scratch:
        interpreter = work.interpreter(facts)
        probe = run_job(interpreter, {"op": "probe"}, limits=_PROBE_LIMITS, workdir=scratch, cancel=work.cancel)
    if probe.status != "ok":
        return failed_job(probe, "the runtime was installed, and ONNX Runtime does not start in it")
    return TaskOutcome("ok", environment.identity, {"environment": facts, "probe": probe.result})
