"""A model against itself on two runtimes of one version, with two busy processes beside it, ten times.

Each time the reported ratio must lie within 3 % of 1, or the answer must be "same" or "undecided".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from matrices import small_model

ORTFORGE = str(Path(sys.executable).with_name("ortforge"))
MATRIX = """
[limits]
timing_s = 4.0
samples = 4
[models.m]
path = "path:m.onnx"
validation = "random:"
[targets.a]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.b]
from = "package"
requires = ["onnxruntime==1.32.0", "numpy<2.4"]
[[matrix]]
recipes = ["none"]
"""


def main() -> None:
    good = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_model(folder / "m.onnx", width=256, layers=6)
        (folder / "matrix.toml").write_text(MATRIX, encoding="utf-8")
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            for trial in range(10):
                argv = [ORTFORGE, "run", "--store", "store", "--json", "--fresh"]
                done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
                cells = {cell["id"]: cell for cell in json.loads(done.stdout)["cells"]}
                timing = cells["m/none@b:cpu/here"]["timing"]
                within = abs(timing["ratio"] - 1) <= 0.03 or timing["outcome"] in ("same", "undecided")
                good += within
                interval = f"{timing['ratio']:.3f} [{timing['low']:.3f}, {timing['high']:.3f}]"
                print(
                    f"{trial + 1:>2}: {interval} noise {timing['noise']:.3f} {timing['outcome']} ({timing['trust']})",
                    flush=True,
                )
        finally:
            for process in load:
                process.kill()
                process.wait()
    print(f"{good} of 10 within 3 % or undecided, on {os.cpu_count()} cores with 2 busy processes")


if __name__ == "__main__":
    main()
