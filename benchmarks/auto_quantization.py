"""The search for a quantization: its time in static quantizations of the same model, and what it ships.

    python auto_quantization.py [MODEL.onnx SAMPLES_FOLDER]

Without arguments it takes the encoder of ``examples/encoder`` (``python examples/encoder/export.py`` makes it) and that
example's sentences, which needs ``tokenizers``. Both passes run as the worker runs them, in fresh processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENCODER = ROOT / "examples" / "encoder"

APPLY = """
import json, sys
from pathlib import Path
from ortforge.worker.apply import PassJob
from ortforge.worker.module import load_module
from ortforge.worker.samples import Samples
import onnxruntime
told = json.loads(sys.stdin.read())
samples = Samples(told["samples"])
folder = Path(told["folder"])
for name in ("work", "out"):
    (folder / name).mkdir(parents=True)
job = PassJob(
    model=Path(told["model"]), output=folder / "out" / "model.onnx", parameters=told["parameters"],
    samples=tuple(samples.paths), folder=samples.folder, ep="cpu", ep_name="CPUExecutionProvider", ep_options={},
    ort_version=onnxruntime.__version__, cpu_flags=(), workdir=folder / "work",
    tolerance={"cosine": 0.995, "max_rel_range": 0.1, "agreement": 0.9},
    session={"graph_optimization_level": "all"},
)
print("RESULT" + json.dumps(load_module(Path(told["module"]), "apply").apply(job)))
"""
LIMIT = 12.0


def run(name: str, model: Path, samples: Path, folder: Path, **parameters: object) -> tuple[float, dict[str, Any]]:
    told = {
        "model": str(model),
        "samples": str(samples),
        "folder": str(folder),
        "parameters": parameters,
        "module": str(ROOT / "plugins" / "passes" / f"{name}.py"),
    }
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", APPLY], input=json.dumps(told), text=True, capture_output=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return seconds, json.loads(done.stdout.split("RESULT", 1)[1])


def sentences(folder: Path) -> Path:
    from ortforge.worker.samples import SampleWriter

    sys.path.insert(0, str(ENCODER))
    import inputs

    writer = SampleWriter(folder)
    for sample in inputs.sentences(32, 0, "calibration"):
        writer.write(sample)
    writer.close(source="benchmark")
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if len(sys.argv) == 3:
            model, samples = Path(sys.argv[1]), Path(sys.argv[2])
        else:
            model, samples = ENCODER / "model.onnx", sentences(folder / "samples")
        static = {"op_types": ["MatMul"], "per_channel": True}
        before, _ = run("quantize_static", model, samples, folder / "before", **static)
        search, found = run("quantize_auto", model, samples, folder / "search")
        after, _ = run("quantize_static", model, samples, folder / "after", **static)
        one = (before + after) / 2
        print(f"one static quantization {one:.1f} s, the search {search:.1f} s")
        print(f"ratio {search / one:.1f} (limit {LIMIT:.0f}), {len(found['candidates'])} candidates")
        speed, parity = found.get("speed", 1.0), found.get("parity", {})
        print(f"ships: {found['chosen']}, {speed} times the float model's speed, cosine {parity.get('cosine', 1.0)}")


if __name__ == "__main__":
    main()
