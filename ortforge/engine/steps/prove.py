"""prove: a clean container with only Python and the wheel runs a model on the wheel's EPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ortforge.api import Backend, Task, TaskOutcome
from ortforge.build import proof
from ortforge.build.request import BuildRequest
from ortforge.engine.library_proof import prove_libraries
from ortforge.engine.steps.provision import in_clean_room
from ortforge.engine.work import Work, failed_job
from ortforge.errors import BuildError
from ortforge.runtime.supervisor import JobOutcome, Limits, run_job
from ortforge.store.hashing import digest_json

_LIMITS: Final = Limits(import_s=120, load_s=120, run_s=120, memory=4 << 30)
CLOSE: Final = 2e-2
"""Largest error, of the output's range, that a proof accepts: EPs compute in TF32 or bfloat16 if they see fit."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Install the wheel where no toolchain is, and run the proof model once on each EP that this machine can run."""
    (_, package, facts) = task.inputs[0]
    request = BuildRequest.from_json(task.context["request"])
    if request.artifact != "wheel":
        proven = prove_libraries(request, package, dict(facts), work)
        return TaskOutcome("ok", digest_json(proven), proven)
    wheel = work.store.objects.get(package) / facts["artifact"]
    requires = tuple(task.parameters.get("requires", ()))
    environment = in_clean_room(wheel, facts["base"], facts["preload"], work, requires, since=task.since)
    probe: Mapping[str, Any] = environment["probe"]
    not_run: Mapping[str, str] = task.parameters["not_run"]
    found: dict[str, Any] = {"image": environment["image"], "eps": {}, "not_run": dict(not_run), "lines": []}
    for backend in (work.plugins.backends[name] for name in request.eps):
        if backend.ep not in probe["providers"]:
            raise BuildError(
                f"The new wheel has no {backend.ep}; ONNX Runtime in it lists {', '.join(probe['providers'])}.",
                meant="It was built without it, or its library is not in the wheel.",
                todo="Look at the log of the build, and at audit.json.",
            )
        if backend.ep in not_run:
            found["lines"].append(f"{backend.ep}: listed, and no model was run on it: {not_run[backend.ep]}")
            continue
        with work.store.objects.scratch() as scratch:
            outcome = _on_ep(backend, environment, scratch, work)
            if outcome.status != "ok":
                return failed_job(outcome, f"the wheel is installed in a clean container, and {backend.ep} fails there")
            found["eps"][backend.ep] = fact = _judged(backend.ep, outcome.result, _error(scratch / "out"))
        found["lines"].append(
            f"{backend.ep}: {fact['nodes']} nodes on it in a clean container, error {fact['error']:.1e} of the range"
        )
    if request.preload:
        found["malloc"] = probe["malloc"]
        found["lines"].append(f"{probe['malloc']} answers malloc in its processes")
    return TaskOutcome("ok", digest_json(found), found)


def _on_ep(backend: Backend, environment: Mapping[str, Any], scratch: Path, work: Work) -> JobOutcome:
    model, samples = proof.write(scratch)
    job = {
        "op": "run",
        "model": str(model),
        "samples": str(samples),
        "output": str(scratch / "out"),
        "ep": backend.name,
        "providers": [[backend.ep, dict(backend.options)], ["CPUExecutionProvider", {}]],
        "session": {"graph_optimization_level": "basic"},
        "placement": True,
    }
    interpreter = work.interpreter(environment, backend.environment)
    limits = replace(_LIMITS, address_space=backend.address_space_limit)
    return run_job(interpreter, job, limits=limits, workdir=scratch, cancel=work.cancel)


def _error(folder: Path) -> float:
    import numpy as np

    with np.load(folder / "000000.npz") as arrays:
        return proof.difference(arrays["0"])


def _judged(ep: str, result: Mapping[str, Any], error: float) -> dict[str, Any]:
    """Return what an EP did with the proof model.

    :raises BuildError: it computed something else, or took no node.
    """
    if not error <= CLOSE:
        raise BuildError(
            f"{ep} of the new wheel computes something else: the largest error is {error:.3g} of the output's range.",
            meant="The EP's library does not fit the build, or was built for another processor.",
            todo="Look at the log of the build; build without flags that change arithmetic.",
        )
    placement = result["placement"] or {}
    nodes = int(placement.get("nodes", {}).get(ep, 0))
    if not nodes:
        raise BuildError(
            f"{ep} is in the new wheel, and takes none of the nodes of a matrix product, a sum and a ReLU.",
            meant="The EP was built without its kernels, or its library could not be loaded.",
            todo="Look at the log of the build.",
        )
    said = {"providers": list(result["providers"]), "ort_version": result["ort_version"]}
    return {"error": error, "nodes": nodes, **said}
