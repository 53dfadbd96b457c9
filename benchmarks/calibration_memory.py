"""Peak memory of calibration with 10, 100 and 1,000 samples, for each method: it must not grow with the samples.

    python calibration_memory.py [MODEL.onnx]

Without a model, a CNN of 32 channels on pictures of 64 x 64. Each measurement is a process of its own, which runs the
pass quantize-static on samples from disk and says its peak resident memory. Needs onnx and onnxruntime.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COUNTS = (10, 100, 1000)
METHODS = ("MinMax", "Entropy", "Percentile")
LIMIT = 1.1

ONE = """
import json, resource, sys
from pathlib import Path
import onnxruntime
from ortforge.worker.apply import PassJob
from ortforge.worker.module import load_module
from ortforge.worker.samples import Samples
module, model, folder, work, method = sys.argv[1:]
samples = Samples(folder)
(Path(work) / "work").mkdir(parents=True)
job = PassJob(
    model=Path(model), output=Path(work) / "model.onnx",
    parameters={"calibrate_method": method, "op_types": ["Conv", "MatMul"]},
    samples=tuple(samples.paths), folder=samples.folder, ep="cpu", ep_name="CPUExecutionProvider", ep_options={},
    ort_version=onnxruntime.__version__, cpu_flags=(), workdir=Path(work) / "work",
)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_module(module, "apply").apply(job)
print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(sys.argv[1]) if len(sys.argv) > 1 else picture_model(folder / "model.onnx")
        write_samples(model, folder, max(COUNTS))
        for method in METHODS:
            peaks = [peak(model, folder, method, count) for count in COUNTS]
            shown = ", ".join(f"{count} samples {mb:.0f} MB" for count, mb in zip(COUNTS, peaks, strict=True))
            print(f"{method}: {shown}: ratio {peaks[-1] / peaks[0]:.2f} (limit {LIMIT})")


def peak(model: Path, folder: Path, method: str, count: int) -> float:
    """Return the peak resident memory, in MB, of one pass."""
    index = {**json.loads((folder / "samples" / "index.json").read_text("utf-8")), "count": count}
    (folder / "samples" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    module = Path(__file__).parents[1] / "plugins" / "passes" / "quantize_static.py"
    work = folder / f"{method}-{count}"
    argv = [sys.executable, "-c", ONE, str(module), str(model), str(folder / "samples"), str(work), method]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])[1]) / 1024


def picture_model(path: Path) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    nodes, weights, at, channels = [], [], "x", 3
    for layer in range(4):
        weight = draw.normal(size=(32, channels, 3, 3)).astype(np.float32) / (3 * channels**0.5)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [at, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], name=f"conv{layer}"))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], name=f"relu{layer}"))
        at, channels = f"r{layer}", 32
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["y"], name="pool"))
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 1, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_samples(model: Path, folder: Path, count: int) -> None:
    """Write samples that fit the model: smooth numbers, or small integers; free dimensions are 1, of pictures 64."""
    import numpy as np
    import onnxruntime

    from ortforge.worker.samples import SampleWriter

    inputs = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()
    draw, writer = np.random.default_rng(1), SampleWriter(folder / "samples")
    for _ in range(count):
        feed: dict[str, Any] = {}
        for value in inputs:
            free = [1] + [64 if len(value.shape) == 4 else 32] * (len(value.shape) - 1)
            shape = [
                size if isinstance(size, int) and size > 0 else free[axis] for axis, size in enumerate(value.shape)
            ]
            if value.type == "tensor(float)":
                feed[value.name] = (np.cumsum(draw.normal(size=shape), axis=-1) / 4).astype(np.float32)
            else:
                feed[value.name] = draw.integers(0, 2, shape).astype(np.int64)
        writer.write(feed)
    writer.close(source="benchmark")


if __name__ == "__main__":
    main()
