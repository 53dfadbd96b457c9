"""What the tier arithmetic costs beside a float run of the same samples.

    python benchmarks/tier_cost.py MODEL.onnx [--samples N] [--length L]
    python benchmarks/tier_cost.py encoder        # six layers of MiniLM's size with normally distributed weights

The float model is quantized dynamically (per tensor, per channel) and statically (QDQ per channel). Both runs use the
same number of threads; sessions are made beforehand on neither side, so the whole of the worker's job is counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="value of every symbolic size but the first")
    arguments = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort
    import tier_models
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from tier_emulation import _Channel

    from ortforge.worker import tiers

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.model == "encoder":
            arguments.model = str(folder / "encoder.onnx")
            onnx.save(_encoder(arguments.length), arguments.model)
        samples = _samples(arguments.model, arguments.samples, arguments.length)
        data = tier_models.write_samples(folder / "samples", samples)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(arguments.model), options, providers=["CPUExecutionProvider"])
        float_s = _timed(lambda: [session.run(None, sample) for sample in samples])
        print(f"float run of {len(samples)} samples: {float_s:.2f} s")
        made = {name: folder / f"{name}.onnx" for name in ("dynamic", "dynamic-per-channel", "QDQ-per-channel")}
        quantize_dynamic(arguments.model, made["dynamic"], weight_type=QuantType.QInt8)
        quantize_dynamic(arguments.model, made["dynamic-per-channel"], weight_type=QuantType.QInt8, per_channel=True)
        quantize_static(
            arguments.model,
            made["QDQ-per-channel"],
            tier_models._Reader(samples[:4]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        os.chdir(folder)
        for name, path in made.items():
            channel = _Channel()
            shutil.rmtree("out", ignore_errors=True)
            job = {"model": str(path), "samples": str(data), "output": "out", "emulate": "saturating-pairs"}
            try:
                seconds = _timed(
                    lambda job=job, channel=channel: tiers.run({**job, "session": {"intra_op_threads": 1}}, channel)
                )
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}")
                continue
            found = channel.result
            print(
                f"{name}: {seconds:.2f} s, {seconds / float_s:.2f} times the float run; {found['samples']} samples, "
                f"{found['unsafe']} of {found['products']} products unsafe, {found.get('segments', 0)} segments, "
                f"{found.get('saturated', 0):,} of {found.get('sums', 0):,} pair sums saturate"
            )


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _encoder(length: int, layers: int = 6, width: int = 384) -> Any:
    """Return a transformer encoder of MiniLM's shape; weights are normally distributed, as trained ones nearly are."""
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, constants = np.random.default_rng(0), [], {}

    def add(kind: str, inputs: list[str], **more: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"t{len(nodes)}"], name=f"n{len(nodes)}", **more))
        return str(nodes[-1].output[0])

    def const(value: Any) -> str:
        name = f"c{len(constants)}"
        constants[name] = numpy_helper.from_array(np.asarray(value, np.float32), name)
        return name

    def dense(x: str, rows: int, columns: int) -> str:
        weights = const(rng.normal(0, rows**-0.5, (rows, columns)))
        return add("Add", [add("MatMul", [x, weights]), const(rng.normal(0, 0.02, columns))])

    x = "x"
    for _ in range(layers):
        query, key, value = (dense(x, width, width) for _ in range(3))
        scores = add("Softmax", [add("MatMul", [query, add("Transpose", [key], perm=[0, 2, 1])])], axis=-1)
        attended = add("Add", [x, dense(add("MatMul", [scores, value]), width, width)])
        x = add("LayerNormalization", [attended, const(np.ones(width))], axis=-1)
        inner = add("Relu", [dense(x, width, 4 * width)])
        x = add("LayerNormalization", [add("Add", [x, dense(inner, 4 * width, width)]), const(np.ones(width))], axis=-1)
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    shape = [1, length, width]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "encoder", ends[:1], ends[1:], list(constants.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    return model


def _samples(path: str, count: int, length: int) -> list[dict[str, Any]]:
    model, rng, samples = onnx.load(path, load_external_data=False), np.random.default_rng(0), []
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constant]
    for _ in range(count):
        sample = {}
        for value in inputs:
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            sizes = [
                one.dim_value if one.dim_value > 0 else (1 if place == 0 else length)
                for place, one in enumerate(value.type.tensor_type.shape.dim)
            ]
            if kind == np.int64:
                ids = rng.integers(1000, 20000, sizes)
                ids = (
                    np.ones(sizes, kind)
                    if "mask" in value.name
                    else np.zeros(sizes, kind)
                    if "type" in value.name
                    else ids
                )
                sample[value.name] = ids
            else:
                sample[value.name] = rng.uniform(0, 1, sizes).astype(kind)
        samples.append(sample)
    return samples


if __name__ == "__main__":
    main()
