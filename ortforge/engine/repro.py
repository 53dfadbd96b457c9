"""One cell's check again, in the foreground and alone, and as a folder that can be handed to others."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ortforge.api import TaskOutcome
from ortforge.engine.artefacts import model_file, providers_for, session_for
from ortforge.engine.local import LocalExecutor
from ortforge.engine.walk import Settled, WalkOptions, walk
from ortforge.plan.graph import Plan
from ortforge.report.saved import REPRO
from ortforge.store import Store
from ortforge.store.atomic import write_bytes, write_json

__all__ = ["reproduce"]

_SCRIPT: Final = '''"""Runs one model on one execution provider: needs numpy and onnxruntime alone."""

import json
import os
from pathlib import Path

here = Path(__file__).resolve().parent
case = json.loads((here / "case.json").read_text("utf-8"))
os.environ.update(case["environment"])

import numpy as np
import onnxruntime as ort

levels = {"disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
          "layout": "ORT_ENABLE_LAYOUT"}
options = ort.SessionOptions()
level = case["session"].get("graph_optimization_level", "all")
options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, levels.get(level, "ORT_ENABLE_ALL"))
options.intra_op_num_threads = case["session"].get("intra_op_threads", 0)
options.inter_op_num_threads = case["session"].get("inter_op_threads", 0)
if case["session"].get("execution_mode") == "parallel":
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
for name in ("enable_cpu_mem_arena", "enable_mem_pattern"):
    if name in case["session"]:
        setattr(options, name, case["session"][name])
for name, value in case["session"].get("config", {}).items():
    options.add_session_config_entry(name, value)
print("onnxruntime", ort.__version__, "providers", ort.get_available_providers())
session = ort.InferenceSession(str(here / case["model"]), options, providers=[tuple(one) for one in case["providers"]])
print("session providers", session.get_providers())
index = json.loads((here / "samples" / "index.json").read_text("utf-8"))
for sample in sorted((here / "samples").glob("*.npz")):
    arrays = np.load(sample)
    feeds = {name: arrays[str(place)] for place, name in enumerate(index["names"]) if str(place) in arrays}
    outputs = session.run(None, feeds)
    print(sample.name, [getattr(output, "shape", type(output)) for output in outputs])
'''


def reproduce(plan: Plan, cell_id: str, store: Store, keep: Path | None, *, say: Callable[[str], None]) -> TaskOutcome:
    """Make what the cell's check needs, then check it again whatever is known.

    :param keep: a folder to leave the model, the samples and a script in.
    """
    cell = next(cell for cell in plan.cells if cell.id == cell_id)
    if cell.unsupported:
        return TaskOutcome("unsupported", reason=cell.unsupported)
    check = plan.steps[cell.steps["check"]]
    wanted = plan.needed_by([replace(cell, steps={"check": check.id})])
    run_id = store.ledger.start_run(matrix=REPRO, matrix_digest=plan.matrix_digest, host="", argv=["repro", cell_id])
    executor = LocalExecutor(1)
    settled = walk(wanted, store, executor, run_id, options=WalkOptions(fresh_kinds=frozenset({check.kind})))
    executor.shutdown(cancel=False)
    for name in check.inputs:
        if not settled[name].ok:
            return TaskOutcome(settled[name].status, reason=f"{name}: {settled[name].reason}", log=settled[name].log)
    if keep is not None:
        _keep(keep, store, check.parameters, [settled[name] for name in check.inputs], say)
    done = settled[check.id]
    return TaskOutcome(done.status, done.identity, done.result, done.reason, done.log, done.seconds)


def _keep(
    folder: Path, store: Store, how: Mapping[str, Any], inputs: list[Settled], say: Callable[[str], None]
) -> None:
    artefact, runtime, data = inputs[0], inputs[1], inputs[2]
    folder.mkdir(parents=True, exist_ok=True)
    source = store.objects.get(artefact.identity)
    shutil.copytree(source, folder / "model", dirs_exist_ok=True)
    shutil.copytree(store.objects.get(data.identity), folder / "samples", dirs_exist_ok=True)
    case = {
        "model": f"model/{model_file(source).name}",
        "providers": providers_for(how["providers"], artefact.result),
        "environment": how["environment"],
        "session": session_for(how["session"], artefact.result),
        "packages": runtime.result["environment"]["packages"],
    }
    write_json(folder / "case.json", json.loads(json.dumps(case)))
    write_bytes(folder / "reproduce.py", _SCRIPT.encode("utf-8"))
    say(f"kept; by hand: {shlex.join(_by_hand(runtime.result['environment'], folder.resolve()))}")


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
