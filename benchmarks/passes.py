"""Passes through ortforge against bare scripts that make the same ONNX Runtime calls, in turns.

    python benchmarks/passes.py [--model MODEL.onnx] [--pairs N] [NAME …]

Ours is the whole step: the input read back through its digest, a worker process, the pass with its guards, the result
published with fsync. A bare script starts Python, imports what it needs and calls ONNX Runtime; it has an environment
of its own, since ONNX Runtime's quantizer of weights needs a package that it does not declare. The model is the encoder
of examples/encoder (export.py makes it); quantize-static gives both sides the same 32 sentences.

The ratio is the median over pairs; so is that of processor time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parents[1]
ORTFORGE: Final = str(Path(sys.executable).with_name("ortforge"))
REQUIRES: Final = ("onnxruntime==1.32.0", "onnx", "sympy", "onnxconverter-common", "onnx-ir")

PASSES: Final = {
    "optimize": '{ use = "optimize", level = "all" }',
    "transformer-optimizer": '{ use = "transformer-optimizer", num_heads = 12, hidden_size = 384 }',
    "preprocess": '{ use = "preprocess" }',
    "quantize-dynamic": '{ use = "quantize-dynamic" }',
    "quantize-static": '{ use = "quantize-static", op_types = ["MatMul"] }',
    "quantize-weights": '{ use = "quantize-weights" }',
    "float16": '{ use = "float16" }',
}

MATRIX: Final = """
[limits]
timing_s = 0
[models.m]
path = "path:m.onnx"
validation = { source = "python:inputs.py:sentences", requires = ["tokenizers==0.22.2"], limit = 2 }
calibration = { source = "python:inputs.py:sentences", requires = ["tokenizers==0.22.2"], limit = 32 }
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
"""

SESSION: Final = """
import onnxruntime as ort
def save(source, saved, level, disabled):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = saved
    more = {"disabled_optimizers": disabled} if disabled else {}
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], **more)
"""

BARE: Final = {
    "optimize": SESSION + 'save("m.onnx", "bare.onnx", ort.GraphOptimizationLevel.ORT_ENABLE_ALL, [])',
    # optimizer.py's own first step imports torch for its session; the same session without it.
    "transformer-optimizer": SESSION
    + """
save("m.onnx", "basic.onnx", ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, ["ConstantSharing"])
from onnxruntime.transformers import optimizer
made = optimizer.optimize_model("basic.onnx", model_type="bert", num_heads=12, hidden_size=384, opt_level=0)
made.save_model_to_file("bare.onnx")
""",
    "preprocess": """
from onnxruntime.quantization.shape_inference import quant_pre_process
quant_pre_process("m.onnx", "bare.onnx", auto_merge=True)
""",
    "quantize-dynamic": """
from onnxruntime.quantization import quantize_dynamic
quantize_dynamic("m.onnx", "bare.onnx")
""",
    "quantize-static": """
import glob, json, sys
import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static
names = json.load(open(sys.argv[1] + "/index.json"))["names"]
class Reader(CalibrationDataReader):
    def __init__(self):
        self.paths = iter(sorted(glob.glob(sys.argv[1] + "/*.npz")))
    def get_next(self):
        path = next(self.paths, None)
        if path is None:
            return None
        with np.load(path) as arrays:
            return {names[int(key)]: arrays[key] for key in arrays.files}
quantize_static("m.onnx", "bare.onnx", Reader(), op_types_to_quantize=["MatMul"])
""",
    "quantize-weights": """
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
made = MatMulNBitsQuantizer(onnx.load("m.onnx"), block_size=32, is_symmetric=False, accuracy_level=4)
made.process()
made.model.save_model_to_file("bare.onnx")
""",
    "float16": """
import onnx, warnings
from onnxconverter_common import float16
warnings.simplefilter("ignore")
onnx.save(float16.convert_float_to_float16(onnx.load("m.onnx"), keep_io_types=True), "bare.onnx")
""",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=HERE / "examples" / "encoder" / "model.onnx")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("passes", nargs="*", choices=[*PASSES, []])
    given = parser.parse_args()
    names = given.passes or list(PASSES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = _prepare(folder, given.model, names)
        python, samples = _bare_environment(folder), _calibration(folder)
        print(
            f"{given.model.stat().st_size / 1e6:.0f} MB; seconds and processor seconds, medians of {given.pairs} pairs"
        )
        print("| pass | ortforge | bare | ratio | ratio of processor time |\n| --- | --- | --- | --- | --- |")
        for one in names:
            pairs = []
            for _ in range(given.pairs):
                bare = _timed([python, "-c", BARE[one], samples], folder)
                pairs.append((_ours(folder, steps[one]), bare))
            ours, bare = (tuple(median(pair[side][what] for pair in pairs) for what in (0, 1)) for side in (0, 1))
            ratios = [median(pair[0][what] / pair[1][what] for pair in pairs) for what in (0, 1)]
            shown = (f"{side[0]:.2f} s, {side[1]:.2f} s" for side in (ours, bare))
            print(f"| {one} | {' | '.join(shown)} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


def _prepare(folder: Path, model: Path, names: list[str]) -> dict[str, str]:
    """Run all passes once, so that environments and data are there; return the step of each."""
    shutil.copyfile(model, folder / "m.onnx")
    for file in ("inputs.py", "tokenizer.json"):
        shutil.copyfile(HERE / "examples" / "encoder" / file, folder / file)
    recipes = "".join(f"[recipes.{name}]\npasses = [{PASSES[name]}]\n" for name in names)
    listed = json.dumps(names)
    (folder / "matrix.toml").write_text(f"{MATRIX}{recipes}[[matrix]]\nrecipes = {listed}\n", encoding="utf-8")
    subprocess.run([ORTFORGE, "run", "--store", "store", "--json"], cwd=folder, capture_output=True, check=False)
    plan = _json([ORTFORGE, "plan", "--store", "store", "--json"], folder)
    found = [step["id"] for step in plan["steps"] if step["kind"] == "transform"]
    return {name: next(step for step in found if step.startswith(f"transform:m/{name}")) for name in names}


def _bare_environment(folder: Path) -> str:
    """Make the environment of the bare scripts, with the versions that the passes have; return its Python."""
    theirs = _json([sys.executable, str(_one_step()), "store", "tools:stock"], folder)["environment"]["python"]
    uv, bare = str(Path(sys.executable).with_name("uv")), folder / "bare"
    subprocess.run([uv, "venv", "--quiet", "--python", theirs, str(bare)], check=True)
    frozen = subprocess.run([uv, "pip", "freeze", "--python", theirs], check=True, capture_output=True, text=True)
    (folder / "versions.txt").write_text(frozen.stdout, encoding="utf-8")
    python = str(bare / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    subprocess.run([*install, "--constraint", str(folder / "versions.txt"), *REQUIRES], check=True)
    return python


def _calibration(folder: Path) -> str:
    """Return the folder that holds the calibration samples, or ``""``."""
    plan = _json([ORTFORGE, "plan", "--store", "store", "--json"], folder)
    steps = [step["id"] for step in plan["steps"] if step["kind"] == "dataset" and "calibration" in step["id"]]
    if not steps:
        return ""
    digest = _json([sys.executable, str(_one_step()), "store", steps[0], "--identity"], folder)
    return str(folder / "store" / "objects" / digest[:2] / digest[2:])


def _ours(folder: Path, step: str) -> tuple[float, float]:
    done = _json([sys.executable, str(_one_step()), "store", step, "--run"], folder)
    if done["status"] != "ok":
        raise SystemExit(f"{step}: {done['status']}: {done['reason']}")
    return float(done["seconds"]), float(done["cpu_seconds"])


def _timed(argv: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return its seconds and processor seconds."""
    # What other runs left unwritten is not this one's.
    os.sync()
    started, before = time.perf_counter(), os.times()
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, spent


def _one_step() -> Path:
    return Path(__file__).with_name("one_step.py")


def _json(argv: list[str], folder: Path) -> Any:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
