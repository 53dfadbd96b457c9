"""The dynamic-int8 pass through ortforge against a bare script that calls onnxruntime.quantization, in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from matrices import small_model

ORTFORGE = str(Path(sys.executable).with_name("ortforge"))
MATRIX = """
[limits]
timing_s = 0
[models.m]
path = "path:m.onnx"
validation = "random:"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[recipes.int8]
passes = [{ use = "quantize-dynamic" }]
[[matrix]]
recipes = ["int8"]
"""
BARE = "from onnxruntime.quantization import quantize_dynamic; quantize_dynamic('m.onnx', 'bare.onnx')"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_model(folder / "m.onnx", width=1024, layers=22)
        (folder / "matrix.toml").write_text(MATRIX, encoding="utf-8")
        argv = [ORTFORGE, "run", "--store", "store", "--json"]
        subprocess.run(argv, cwd=folder, capture_output=True, check=False)
        plan = subprocess.run(
            [ORTFORGE, "plan", "--store", "store", "--json"], cwd=folder, capture_output=True, text=True, check=True
        )
        transform = next(step["id"] for step in json.loads(plan.stdout)["steps"] if step["kind"] == "transform")
        prepare = Path(__file__).with_name("one_step.py")
        python = json.loads(
            subprocess.run(
                [sys.executable, str(prepare), "store", "tools:stock"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )["environment"]["python"]
        pairs = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([python, "-c", BARE], cwd=folder, check=True, capture_output=True)
            bare = time.perf_counter() - started
            done = subprocess.run(
                [sys.executable, str(prepare), "store", transform, "--run"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            pairs.append((json.loads(done.stdout)["seconds"], bare))
    ours, bare = median(a for a, _ in pairs), median(b for _, b in pairs)
    print(f"dynamic int8 of a 92 MB model (the size of MiniLM): pass {ours:.2f} s, bare script {bare:.2f} s")
    print(f"ratio {median(a / b for a, b in pairs):.2f} (limit 1.25), median of {len(pairs)} pairs")


if __name__ == "__main__":
    main()
