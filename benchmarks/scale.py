"""Time and memory of a run against its number of cells, with an executor that does nothing: 100, 1,000, 10,000."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from matrices import grid

SHAPES = {100: (5, 5, 4), 1_000: (10, 10, 10), 10_000: (40, 25, 10)}


def one(folder: Path, matrix: Path) -> dict[str, float]:
    """Walk the whole plan in this process with stub outcomes; return seconds and peak memory."""
    import resource
    import time
    from concurrent.futures import Future

    from ortforge.api import Task, TaskOutcome
    from ortforge.cli.shared import known
    from ortforge.engine.run import execute
    from ortforge.engine.walk import WalkOptions
    from ortforge.matrix import load
    from ortforge.plan.planner import make_plan
    from ortforge.plugin_manager import Plugins
    from ortforge.report.progress import make_progress
    from ortforge.runtime import device, workerfiles
    from ortforge.store import open_store
    from ortforge.store.hashing import digest_json

    stats = {"ratio": 1.2, "low": 1.1, "high": 1.3, "outcome": "faster", "pairs": 30, "rounds": 3, "trust": "stable"}
    timing = stats | {"trust_reason": "", "samples": [1] * 100, "baseline_samples": [1] * 100, "noise": 0.03}
    timing |= {"p50_s": 1e-9, "p90_s": 1e-9, "p99_s": None, "load_s": 0.1, "first_run_s": 0.1, "peak_rss": 1 << 26}
    timing |= {"baseline_load_s": 0.1, "baseline_first_run_s": 0.1, "baseline_peak_rss": 1 << 26}
    worst = {"cosine": 1.0, "sqnr_db": 60.0, "max_rel_range": 0.0, "agreement": None, "output": "y", "sample": 0}
    results = {
        "fetch": {"bytes": 1000},
        "transform": {"bytes": 500, "warnings": [], "changed": {}},
        "provision": {
            "environment": {"packages": []},
            "probe": {"ort_version": "1.32.0", "python": "3.11", "providers": []},
        },
        "check": {"placement": None, "load_s": 0.1, "first_run_s": 0.1, "peak_rss": 1 << 26, "note": ""},
        "compare": {
            "samples": 4,
            "identical": False,
            "finite": True,
            "outputs": {},
            "worst": worst,
            "problems": [],
            "tasks": {},
        },
        "noise": {**timing, "noise": {"floor": 0.03, "pairs": 30, "rounds": 3}},
        "time": timing,
    }

    class Stub:
        name = "stub"

        def submit(self, run: object, task: Task) -> Future[TaskOutcome]:
            future: Future[TaskOutcome] = Future()
            future.set_result(
                TaskOutcome("ok", digest_json([task.kind, task.step_id]), results.get(task.kind, {"metadata": {}}))
            )
            return future

        def shutdown(self, *, cancel: bool) -> None:
            pass

    plugins = Plugins()
    here = device.probe()
    started = time.perf_counter()
    plan = make_plan(load(matrix, known(plugins)), plugins, here, worker=workerfiles.digest())
    planned = time.perf_counter()
    with make_progress(quiet=True) as listener:
        report = execute(
            plan,
            matrix_file=matrix,
            store=open_store(folder / "store"),
            plugins=plugins,
            device=here,
            executor=Stub(),
            listener=listener,
            options=WalkOptions(),
        )
    finished = time.perf_counter()
    return {
        "cells": len(report["cells"]),
        "plan_s": planned - started,
        "walk_s": finished - planned,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(one(Path(sys.argv[1]), Path(sys.argv[2]))))
        return
    print(f"{'cells':>7} {'plan s':>8} {'walk s':>8} {'ms/cell':>8} {'peak MB':>8}")
    for models, recipes, targets in SHAPES.values():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            matrix = grid(folder, models=models, recipes=recipes, targets=targets)
            argv = [sys.executable, __file__, name, str(matrix)]
            found = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
            each = 1000 * (found["plan_s"] + found["walk_s"]) / found["cells"]
            times = f"{found['plan_s']:>8.2f} {found['walk_s']:>8.2f} {each:>8.2f}"
            print(f"{found['cells']:>7} {times} {found['peak_mb']:>8.0f}")


if __name__ == "__main__":
    main()
