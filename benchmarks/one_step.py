"""Shows one step's recorded result or (``--identity``) identity, or (``--run``) does it again and prints its times."""

from __future__ import annotations

import json
import os
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
        record = records[step.id]
        print(json.dumps(record.identity if "--identity" in sys.argv else record.result))
        return
    inputs = tuple((name, records[name].identity, records[name].result) for name in step.inputs)
    task = Task(step.id, step.kind, keys[step.id], step.parameters, inputs, str(store.root), context=step.context)
    # The step makes its result anew, so it also has to be published anew.
    if records[step.id].identity not in {identity for _, identity, _ in inputs}:
        store.objects.drop(records[step.id].identity)
    ready(str(store.root))  # once per run, not per pass
    os.sync()  # what others left unwritten is not this step's
    started, before = time.perf_counter(), os.times()
    outcome = run_task(task)
    seconds, after = time.perf_counter() - started, os.times()
    spent = sum(after[:4]) - sum(before[:4])
    told = {"status": outcome.status, "reason": outcome.reason, "seconds": seconds, "cpu_seconds": spent}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
