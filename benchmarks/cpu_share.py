"""The orchestrator's own CPU time while cells run, as a share of the run's wall time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from matrices import grid

ORTFORGE = str(Path(sys.executable).with_name("ortforge"))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid(folder, models=2, recipes=4, targets=2, timing_s=3.0, rounds=3)
        subprocess.run([ORTFORGE, "plan", "--store", "store"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        started = time.perf_counter()
        with Path(folder, "output.txt").open("wb") as output:
            process = subprocess.Popen([ORTFORGE, "run", "--store", "store"], cwd=folder, stdout=output, stderr=output)
            own = psutil.Process(process.pid)
            used = 0.0
            while process.poll() is None:
                try:
                    times = own.cpu_times()
                except psutil.Error:
                    break
                used = times.user + times.system
                time.sleep(0.05)
            process.wait()
        wall = time.perf_counter() - started
        print(f"orchestrator {used:.2f} CPU s in {wall:.1f} s of wall time: {100 * used / wall:.1f} % (limit 5)")


if __name__ == "__main__":
    main()
