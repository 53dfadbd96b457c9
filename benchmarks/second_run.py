"""A second run of a finished matrix of 100 real cells, and ``ortforge plan`` on 10,000 cells."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from matrices import grid

ORTFORGE = str(Path(sys.executable).with_name("ortforge"))


def timed(argv: list[str], folder: Path, codes: set[int]) -> tuple[float, float]:
    """Return wall seconds and peak resident MB of a command."""
    started = time.perf_counter()
    with Path(folder, "output.txt").open("wb") as output:
        process = subprocess.Popen(argv, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in codes:
        sys.exit(f"{argv} ended with {code}:\n{Path(folder, 'output.txt').read_text('utf-8')[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid(folder, models=5, recipes=5, targets=4)
        argv = [ORTFORGE, "run", "--store", "store"]
        first, _ = timed(argv, folder, {0, 1})
        again = [timed(argv, folder, {0, 1}) for _ in range(5)]
        print(
            f"first run of 100 cells {first:.1f} s; second {median(s for s, _ in again):.2f} s (limit 1.0), median of 5"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid(folder, models=40, recipes=25, targets=10)
        found = [timed([ORTFORGE, "plan", "--store", "store"], folder, {0}) for _ in range(3)]
        seconds, megabytes = median(s for s, _ in found), max(m for _, m in found)
        print(f"plan of 10,000 cells {seconds:.2f} s (limit 3), {megabytes:.0f} MB (limit 300)")


if __name__ == "__main__":
    main()
