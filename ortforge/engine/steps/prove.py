"""prove: a clean container with only Python and the wheel runs a model on the wheel's EPs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ortforge.api import Task, TaskOutcome
from ortforge.build import proof
from ortforge.build.request import BuildRequest
from ortforge.engine.library_proof import prove_libraries
from ortforge.engine.steps.provision import in_clean_room
from ortforge.engine.work import Work, failed_job
from ortforge.errors import BuildError
from ortforge.runtime.supervisor import Limits, run_job
from ortforge.store.hashing import digest_json

_LIMITS = Limits(import_s=120, load_s=120, run_s=120, memory=4 << 30)
CLOSE = 2e-2
"""Largest error, of the output's range, that a proof accepts: EPs compute in TF32 or bfloat16 if they see fit."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Install the wheel where no toolchain is, and run the proof model once on each EP."""
    (_, package, facts) = task.inputs[0]
    request = BuildRequest.from_json(task.context["request"])
    if request.artifact != "wheel":
        proven = prove_libraries(request, package, dict(facts), work)
        return TaskOutcome("ok", digest_json(proven), proven)
    wheel = work.store.objects.get(package) / facts["artifact"]
    environment = in_clean_room(wheel, facts["base"], facts["preload"], work)
    found: dict[str, Any] = {"image": environment["image"], "eps": {}, "lines": []}
    for backend in (work.plugins.backends[name] for name in request.eps):
        with work.store.objects.scratch() as scratch:
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
            outcome = run_job(
                work.interpreter(environment, backend.environment),
                job,
                limits=_LIMITS,
                workdir=scratch,
                cancel=work.cancel,
            )
            if outcome.status != "ok":
                return failed_job(outcome, f"the wheel is installed in a clean container, and {backend.ep} fails there")
            found["eps"][backend.ep] = fact = _judged(backend.ep, outcome.result, _error(scratch / "out"))
            found["lines"].append(_line(backend.ep, fact))
    if request.preload:
        found["malloc"] = _allocator(request, environment, work)
        found["lines"].append(f"{found['malloc']} answers malloc in its processes")
    return TaskOutcome("ok", digest_json(found), found)


def _allocator(request: BuildRequest, environment: Mapping[str, Any], work: Work) -> str:
    """Return the library that answers malloc in a process of the wheel.

    :raises BuildError: it is not the one that was asked for.
    """
    with work.store.objects.scratch() as scratch:
        interpreter = work.interpreter(environment)
        probe = run_job(interpreter, {"op": "probe"}, limits=_LIMITS, workdir=scratch, cancel=work.cancel)
    seen = str(probe.result.get("malloc", "")) if probe.status == "ok" else probe.reason
    stem = request.preload.partition(".so")[0]
    if not seen.startswith(stem):
        raise BuildError(
            f"{request.preload} was to be the allocator, and {seen or 'an unknown library'} answers malloc.",
            meant="The library was not loaded first.",
            todo="Look at the environment of the process: LD_PRELOAD has to name it.",
        )
    return seen


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
    return {
        "error": error,
        "nodes": nodes,
        "providers": list(result["providers"]),
        "ort_version": result["ort_version"],
    }


def _line(ep: str, fact: Mapping[str, Any]) -> str:
    return f"{ep}: {fact['nodes']} nodes on it in a clean container, error {fact['error']:.1e} of the range"
