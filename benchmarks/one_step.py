"""Shows one step's recorded result, or (``--run``) does that step again and prints how long it took."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ortforge.api import Task
from ortforge.cli.shared import known
from ortforge.engine.work import ready, run_task
from ortforge.matrix import load
from ortforge.plan.lookup import look_up
from ortforge.plan.planner import make_plan
from ortforge.plugin_manager import Plugins
from ortforge.runtime import device, workerfiles
from ortforge.store import open_store


def main() -> None:
    plugins, store = Plugins(), open_store(Path(sys.argv[1]))
    plan = make_plan(load(Path("matrix.toml"), known(plugins)), plugins, device.probe(), worker=workerfiles.digest())
    keys, records = look_up(plan, store.ledger.done_many)
    step = plan.steps[sys.argv[2]]
    if "--run" not in sys.argv:
        print(json.dumps(records[step.id].result))
        return
    inputs = tuple((name, records[name].identity, records[name].result) for name in step.inputs)
    task = Task(step.id, step.kind, keys[step.id], step.parameters, inputs, str(store.root), context=step.context)
    ready(str(store.root))  # once per run, not per pass
    started = time.perf_counter()
    outcome = run_task(task)
    print(json.dumps({"status": outcome.status, "reason": outcome.reason, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
