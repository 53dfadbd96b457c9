"""Models whose 8-bit products saturate, and what their artifacts give on other CPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from ortforge.worker.samples import SampleWriter

F = np.float32
node = helper.make_node


def build(nodes: Sequence[Any], shapes: Mapping[str, Sequence[int]], constants: Mapping[str, Any]) -> onnx.ModelProto:
    """Return a model from ``x`` to ``y``; shapes of both."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shapes[name])) for name in "xy")
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "g", [x], [y], values)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    return model


def _uniform(low: float, high: float, *shape: int) -> Any:
    return np.random.default_rng(sum(shape)).uniform(low, high, shape).astype(F)


def mlp(low: float = 0.4) -> onnx.ModelProto:
    """Two MatMuls with an odd K; ``low`` is the smallest weight, the largest is 1."""
    nodes = [node("MatMul", ["x", "w1"], ["a"]), node("Add", ["a", "b1"], ["b"]), node("Relu", ["b"], ["r"])]
    nodes.append(node("MatMul", ["r", "w2"], ["y"]))
    constants = {"w1": _uniform(low, 1, 33, 20), "b1": _uniform(-1, 1, 20), "w2": _uniform(low, 1, 20, 7)}
    return build(nodes, {"x": (4, 33), "y": (4, 7)}, constants)


def gemm() -> onnx.ModelProto:
    """Two Gemms, one with transposed weights."""
    nodes = [node("Gemm", ["x", "w1", "b1"], ["a"], transB=1), node("Relu", ["a"], ["r"])]
    nodes.append(node("Gemm", ["r", "w2", "b2"], ["y"]))
    constants = {"w1": _uniform(0.4, 1, 20, 33), "b1": _uniform(-1, 1, 20), "w2": _uniform(0.3, 1, 20, 7)}
    return build(nodes, {"x": (4, 33), "y": (4, 7)}, constants | {"b2": _uniform(-1, 1, 7)})


def cnn() -> onnx.ModelProto:
    """Convolutions with three channels, in groups, depthwise and pointwise."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w2"], ["c"], group=2, pads=[1] * 4),
        node("Conv", ["c", "w3"], ["d"], group=16, pads=[1] * 4),
        node("Conv", ["d", "w4"], ["e"]),
        node("GlobalAveragePool", ["e"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    constants = {
        "w1": _uniform(0.2, 1, 16, 3, 3, 3),
        "b1": _uniform(-1, 1, 16),
        "w2": _uniform(0.1, 1, 16, 8, 3, 3),
        "w3": _uniform(-1, 1, 16, 1, 3, 3),
        "w4": _uniform(0.5, 1, 24, 16, 1, 1),
    }
    return build(nodes, {"x": (2, 3, 17, 15), "y": (2, 24)}, constants)


def conv1d() -> onnx.ModelProto:
    """A dilated convolution in one dimension with an odd number of channels."""
    nodes = [node("Conv", ["x", "w1", "b1"], ["y"], pads=[2, 2], dilations=[2])]
    constants = {"w1": _uniform(0.2, 1, 8, 5, 3), "b1": _uniform(-1, 1, 8)}
    return build(nodes, {"x": (2, 5, 31), "y": (2, 8, 31)}, constants)


def conv3d() -> onnx.ModelProto:
    """A strided convolution in three dimensions, padded automatically."""
    nodes = [node("Conv", ["x", "w1"], ["y"], auto_pad="SAME_UPPER", strides=[1, 2, 2])]
    return build(nodes, {"x": (1, 4, 5, 6, 7), "y": (1, 16, 5, 3, 4)}, {"w1": _uniform(0.2, 1, 16, 4, 3, 2, 3)})


def batched() -> onnx.ModelProto:
    """A MatMul with three-dimensional weights."""
    nodes = [node("MatMul", ["x", "w1"], ["y"])]
    return build(nodes, {"x": (2, 3, 5, 18), "y": (2, 3, 5, 9)}, {"w1": _uniform(0.3, 1, 3, 18, 9)})


MODELS = {"mlp": mlp, "gemm": gemm, "cnn": cnn, "conv1d": conv1d, "conv3d": conv3d, "batched": batched}


def feeds(model: onnx.ModelProto, count: int = 3) -> list[dict[str, Any]]:
    """Return inputs between 0 and 1, so that activations use the upper half of their range as well."""
    shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(5)
    return [{"x": rng.uniform(0, 1, shape).astype(F)} for _ in range(count)]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        self.samples = iter(samples)

    def get_next(self) -> Any:
        return next(self.samples, None)


def quantized(model: onnx.ModelProto, path: Path, scheme: str, **options: Any) -> Path:
    """Write a quantized model: ``dynamic``, ``QDQ`` or ``QOperator``, with activations ``u8`` unless told otherwise."""
    source = path.with_suffix(".float.onnx")
    onnx.save(model, source)
    weight = getattr(QuantType, options.pop("weight", "QInt8"))
    if scheme == "dynamic":
        quantize_dynamic(source, path, weight_type=weight, op_types_to_quantize=["MatMul", "Gemm"], **options)
    else:
        activation = getattr(QuantType, options.pop("activation", "QUInt8"))
        quantize_static(
            source,
            path,
            _Reader(feeds(model)),
            quant_format=getattr(QuantFormat, scheme),
            activation_type=activation,
            weight_type=weight,
            **options,
        )
    return path


def write_samples(folder: Path, samples: Sequence[Mapping[str, Any]]) -> Path:
    """Write a samples folder; return it."""
    writer = SampleWriter(folder, list(samples[0]))
    for sample in samples:
        writer.write(sample)
    writer.close()
    return folder
