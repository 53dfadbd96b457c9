"""What the methods of the pass quantize-weights cost and keep on the encoder of examples/encoder.

    python benchmarks/weight_blocks.py [SENTENCES]

For each recipe: the worst and mean cosine to fp32 over the validation sentences (32), the size of the model, the CPU
seconds of the pass, and fp32's median time over the recipe's, one thread, turn by turn in one process. Needs numpy,
onnx, onnxruntime, tokenizers and the exported model (examples/encoder/export.py). With onnx_ir installed, the same of
ONNX Runtime's own quantizer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from ortforge.worker.apply import PassJob  # noqa: E402
from ortforge.worker.module import load_module  # noqa: E402
from ortforge.worker.samples import Samples, SampleWriter  # noqa: E402

RECIPES: dict[str, dict[str, Any]] = {
    "8 bits": {"bits": 8},
    "8 bits, accuracy_level 0": {"bits": 8, "accuracy_level": 0},
    "8 bits, with Gather": {"bits": 8, "op_types": ["MatMul", "Gather"]},
    "4 bits, default": {},
    "4 bits, default, accuracy_level 0": {"accuracy_level": 0},
    "4 bits, default, symmetric": {"symmetric": True},
    "4 bits, default, blocks of 128": {"block_size": 128},
    "4 bits, default, QDQ": {"format": "QDQ"},
    "4 bits, rtn, symmetric": {"method": "rtn", "symmetric": True},
    "4 bits, hqq": {"method": "hqq"},
    "4 bits, hqq, float_zero_points": {"method": "hqq", "float_zero_points": True},
    "4 bits, k-quant": {"method": "k-quant"},
    "4 bits, gptq": {"method": "gptq"},
    "4 bits, gptq, damping 0.05": {"method": "gptq", "damping": 0.05},
    "4 bits, gptq, with Gather": {"method": "gptq", "op_types": ["MatMul", "Gather"]},
    "2 bits, k-quant, blocks of 16": {"bits": 2, "method": "k-quant", "block_size": 16},
}
THEIRS = {"default": "", "RTN": "RTNWeightOnlyQuantConfig", "k-quant": "KQuantWeightOnlyQuantConfig"}
TURNS = 30


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    example = HERE / "examples" / "encoder"
    inputs = _module(example / "inputs.py")
    validation = list(inputs.sentences(count, split="validation"))
    plugin = load_module(HERE / "plugins" / "passes" / "quantize_weights.py", "apply")
    print(f"ONNX Runtime {onnxruntime.__version__}, {count} sentences")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = SampleWriter(folder / "samples")
        for sample in inputs.sentences(count, split="calibration"):
            writer.write(sample)
        writer.close(random=False, source="docstrings")
        samples = Samples(folder / "samples")
        float_model = _session(example / "model.onnx")
        for number, (label, parameters) in enumerate(RECIPES.items()):
            job = _job(folder / str(number), example / "model.onnx", samples, parameters)
            began = time.process_time()
            plugin.apply(job)
            seconds = time.process_time() - began
            _print(label, job.output, seconds, float_model, validation)
        if importlib.util.find_spec("onnx_ir") is None:
            return
        for label, config in THEIRS.items():
            began = time.process_time()
            _quantize_by_onnx_runtime(example / "model.onnx", folder / "theirs.onnx", config)
            seconds = time.process_time() - began
            _print(f"ONNX Runtime's own, {label}", folder / "theirs.onnx", seconds, float_model, validation)


def _print(label: str, path: Path, seconds: float, float_model: Any, validation: Sequence[dict[str, Any]]) -> None:
    """Print a row of a model, and remove the model."""
    made = _session(path)
    cosines = _cosines(float_model, made, validation)
    cells = (
        label,
        f"{min(cosines):.4f}",
        f"{statistics.mean(cosines):.4f}",
        f"{path.stat().st_size / 1e6:.1f} MB",
        f"{seconds:.1f} s",
        f"{_ratio(float_model, made, validation[0]):.2f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    path.unlink()


def _quantize_by_onnx_runtime(model: Path, made: Path, config: str) -> None:
    """Quantize to 4 bits in blocks of 32 at level 4. :param config: the class of a method's settings, or ""."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer

    algorithm = getattr(matmul_nbits_quantizer, config)() if config else None
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        onnx.load(model), block_size=32, is_symmetric=False, accuracy_level=4, algo_config=algorithm
    )
    with contextlib.redirect_stdout(io.StringIO()):
        quantizer.process()
    quantizer.model.save_model_to_file(str(made))


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _job(folder: Path, model: Path, samples: Samples, parameters: dict[str, Any]) -> PassJob:
    for part in ("work", "out"):
        (folder / part).mkdir(parents=True)
    calibrated = parameters.get("method") == "gptq"
    return PassJob(
        model=model,
        output=folder / "out" / "model.onnx",
        parameters=parameters,
        samples=tuple(samples.paths) if calibrated else (),
        folder=samples.folder if calibrated else None,
        ep="cpu",
        ep_name="CPUExecutionProvider",
        ep_options={},
        ort_version=onnxruntime.__version__,
        cpu_flags=(),
        workdir=folder / "work",
    )


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _cosines(reference: Any, other: Any, feeds: Sequence[dict[str, Any]]) -> list[float]:
    """Return the cosine of the first output, sentence by sentence."""
    found = []
    for feed in feeds:
        left, right = (side.run(None, feed)[0].astype(np.float64).ravel() for side in (reference, other))
        found.append(float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right))))
    return found


def _ratio(reference: Any, other: Any, feed: dict[str, Any]) -> float:
    """Return how many times as fast the other one is, in median, the two taking turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        for session, kept in zip((reference, other), times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            kept.append(time.perf_counter() - began)
    return statistics.median(times[0]) / statistics.median(times[1])


if __name__ == "__main__":
    main()
