"""A cell's case as a folder that can be handed to others: model, samples, reference outputs and a script."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ortforge.engine.artefacts import model_file, providers_for, session_for
from ortforge.engine.walk import Settled
from ortforge.runtime import workerfiles
from ortforge.store import Store
from ortforge.store.atomic import write_bytes, write_json

__all__ = ["keep_case", "keep_pass"]

SCRIPT: Final = Path(__file__).with_name("repro_script.py")
"""Copied as it is, beside a copy of the worker; both need numpy and onnxruntime alone."""


def keep_case(
    folder: Path,
    store: Store,
    parameters: Mapping[str, Any],
    steps: Mapping[str, Settled],
    verdict: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Leave a cell's model, samples, reference outputs and a script in a folder.

    :param parameters: of the cell's check. :param steps: by role: ``artefact``, ``provision``, ``dataset`` and
        ``reference``; without a successful reference, there is nothing to compare with.
    :param verdict: the cell's entry of the report.
    """
    artefact, runtime, data = steps["artefact"], steps["provision"], steps["dataset"]
    folder.mkdir(parents=True, exist_ok=True)
    source = store.objects.get(artefact.identity)
    shutil.copytree(source, folder / "model", dirs_exist_ok=True)
    shutil.copytree(store.objects.get(data.identity), folder / "samples", dirs_exist_ok=True)
    reference = steps.get("reference")
    if reference is not None and reference.ok:
        shutil.copytree(store.objects.get(reference.identity), folder / "reference", dirs_exist_ok=True)
    case = {
        "cell": verdict["id"],
        "status": verdict["status"],
        "reasons": list(verdict["reasons"]),
        "model": f"model/{model_file(source).name}",
        "providers": providers_for(parameters["providers"], artefact.result),
        "environment": parameters["environment"],
        "session": session_for(parameters["session"], artefact.result),
        "packages": runtime.result["environment"]["packages"],
    }
    write_json(folder / "case.json", json.loads(json.dumps(case)))
    write_bytes(folder / "reproduce.py", SCRIPT.read_bytes())
    workerfiles.copy_to(folder)
    say(f"kept; by hand: {shlex.join(_by_hand(runtime.result['environment'], folder.resolve()))}")


def keep_pass(
    folder: Path, store: Store, failed: Settled, steps: Mapping[str, Settled], say: Callable[[str], None]
) -> None:
    """Leave what a failing pass was given in a folder: the model, the calibration samples and its parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    before = steps[failed.step.inputs[0]]
    shutil.copytree(store.objects.get(before.identity), folder / "model", dirs_exist_ok=True)
    for name in failed.step.inputs[2:]:
        shutil.copytree(store.objects.get(steps[name].identity), folder / "calibration", dirs_exist_ok=True)
    parameters = failed.step.parameters
    case = {name: parameters.get(name) for name in ("pass", "parameters", "ep", "providers")}
    write_json(folder / "case.json", json.loads(json.dumps({**case, "status": failed.status, "reason": failed.reason})))
    say(f"kept what the pass {parameters['pass']} was given in {folder}; there is no model to run")


def _by_hand(environment: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the command that runs the kept script in the runtime: in its container, where it has one."""
    command = [str(environment["python"]), str(folder / "reproduce.py")]
    if environment.get("preload"):
        command = ["env", f"LD_PRELOAD={environment['preload']}", *command]
    if not environment.get("image"):
        return command
    read = [f"type=bind,source={path},target={path},readonly" for path in (environment["folder"], folder)]
    mounts = [word for text in read for word in ("--mount", text)]
    return ["docker", "run", "--rm", "--network", "none", *mounts, environment["image"], *command]
