"""Write resnet50.onnx: the whole ResNet-50 v1.5 with weights drawn by chance. ``python examples/tensorrt/build.py``.

It shows that the whole network (25.5 million parameters, batch normalization folded into its convolutions) passes
through calibration and quantization, and gives an engine of the right size to time. It has learned nothing, so how
exact int8 is on it says nothing about a trained ResNet-50; open_nsfw in the same matrix is the trained one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels, blocks and stride of each stage (He et al. 2015, table 1); v1.5 strides in the 3 x 3 convolution."""
CLASSES = 1000


class _Graph:
    """Nodes and weights as they come."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, values: Any) -> str:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, source: str, name: str, shape: tuple[int, int, int], *, stride: int = 1, gain: float = 2.0) -> str:
        """Add a convolution (outputs, inputs, side) whose outputs have ``gain / 2`` times its inputs' variance."""
        outputs, inputs, side = shape
        deviation = np.sqrt(gain / (inputs * side * side))
        kernel = self.weight(f"{name}.weight", self.draw.normal(0, deviation, (outputs, inputs, side, side)))
        bias = self.weight(f"{name}.bias", self.draw.normal(0, 0.1, outputs))
        pads = [side // 2] * 4
        return self.add("Conv", [source, kernel, bias], name, kernel_shape=[side] * 2, strides=[stride] * 2, pads=pads)


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """Return the model: ``input`` [1, 3, 224, 224] to ``scores`` [1, 1000], opset 13."""
    graph = _Graph(seed)
    value = graph.add("Relu", [graph.conv("input", "stem", (64, 3, 7), stride=2)], "stem.relu")
    value = graph.add("MaxPool", [value], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (inner, blocks, stride) in enumerate(STAGES, 1):
        for block in range(blocks):
            value = _bottleneck(graph, value, f"stage{stage}.{block}", channels, inner, stride if block == 0 else 1)
            channels = 4 * inner
    value = graph.add("Flatten", [graph.add("GlobalAveragePool", [value], "pool")], "flat")
    matrix = graph.weight("classes.weight", graph.draw.normal(0, channels**-0.5, (channels, CLASSES)))
    graph.add("Gemm", [value, matrix, graph.weight("classes.bias", np.zeros(CLASSES))], "scores")
    made = helper.make_graph(
        graph.nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _bottleneck(graph: _Graph, source: str, name: str, channels: int, inner: int, stride: int) -> str:
    """Add 1 x 1, 3 x 3, 1 x 1 convolutions and the way around them, which is a convolution where the shape changes."""
    value = graph.add("Relu", [graph.conv(source, f"{name}.a", (inner, channels, 1))], f"{name}.a.relu")
    value = graph.add("Relu", [graph.conv(value, f"{name}.b", (inner, inner, 3), stride=stride)], f"{name}.b.relu")
    value = graph.conv(value, f"{name}.c", (4 * inner, inner, 1), gain=0.25)
    if channels != 4 * inner:
        source = graph.conv(source, f"{name}.around", (4 * inner, channels, 1), stride=stride, gain=1.0)
    return graph.add("Relu", [graph.add("Add", [value, source], f"{name}.sum")], f"{name}.relu")


if __name__ == "__main__":
    path = Path(__file__).resolve().parent / "resnet50.onnx"
    model = resnet50()
    onnx.save(model, path)
    parameters = sum(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)
    print(f"{path}: {parameters / 1e6:.1f} million parameters, drawn by chance")
