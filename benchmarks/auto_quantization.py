"""The search for a quantization: what it ships, how close and how fast that is, and its time in static quantizations.

    python auto_quantization.py [MODEL.onnx SAMPLES_FOLDER]

Without arguments it takes the encoder of ``examples/encoder`` (``python examples/encoder/export.py`` makes it) and that
example's sentences, which needs ``tokenizers``, and holds what ships against the float model on 96 sentences that the
search never saw. The ratio is the search's own final: fresh processes in turns with the float model. Both passes run
as the worker runs them, in fresh processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
UNSEEN = 96
"""Validation sentences that the shipped model is held against the float model on."""


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


def _sentences(count: int, split: str) -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(ENCODER))
    import inputs

    found: Iterator[dict[str, Any]] = inputs.sentences(count, 0, split)
    return found


def sentences(folder: Path) -> Path:
    from ortforge.worker.samples import SampleWriter

    writer = SampleWriter(folder)
    for sample in _sentences(32, "calibration"):
        writer.write(sample)
    writer.close(source="benchmark")
    return folder


def cosines(model: Path, shipped: Path) -> list[float]:
    """Return the cosine between both models' first outputs for each unseen sentence, the float one not optimized."""
    import numpy as np
    import onnxruntime

    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    cpu = ["CPUExecutionProvider"]
    reference = onnxruntime.InferenceSession(str(model), plain, providers=cpu)
    session = onnxruntime.InferenceSession(str(shipped), providers=cpu)
    found = []
    for feeds in _sentences(UNSEEN, "validation"):
        a, b = (np.asarray(one.run(None, feeds)[0], np.float64).reshape(-1) for one in (reference, session))
        found.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return found


def tell(found: dict[str, Any]) -> None:
    """Print the row of the table that the search itself knows."""
    if "speed" not in found:
        print(f"ships: {found['chosen']}")
        return
    timed = next(entry for entry in found["candidates"] if entry["name"] == found["chosen"])
    interval = f"{timed['ratio']} times the float model's speed [{timed['low']}, {timed['high']}]"
    print(f"ships: {found['chosen']} ({len(found['kept_nodes'])} nodes kept), {interval}")
    print(f"size: {found['bytes_after'] / 1e6:.1f} MB of {found['bytes_before'] / 1e6:.1f} MB")
    print(f"worst cosine on the {found['judged_on']} samples it was judged on: {found['parity'].get('cosine')}")


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
        tell(found)
        if len(sys.argv) != 3:
            unseen = cosines(model, folder / "search" / "out" / "model.onnx")
            mean = sum(unseen) / len(unseen)
            print(f"on {len(unseen)} unseen sentences: worst cosine {min(unseen):.4f}, mean {mean:.4f}")


if __name__ == "__main__":
    main()
