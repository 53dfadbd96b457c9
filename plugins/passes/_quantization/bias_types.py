"""Biases that 32 bits do not hold, as 16-bit weights with 16-bit activations have them.

A quantized bias gets the product of its inputs' two scales for a scale of its own. With two scales of 16 bits that is
so small that a bias of ordinary size lies outside of int32, and ONNX Runtime's quantizer cuts it off; left in float, a
session quantizes it in the same way when it loads the model.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["cut_off", "widen"]

HELD: Final = 2**31 - 1
USED: Final = 2**30
BIAS_AT: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "DequantizeLinear": (0, (1,)),
    "QGemm": (6, (1, 4)),
    "QLinearConv": (8, (1, 4)),
}
"""Where the operators have a quantized bias among their inputs, and the scales whose product is its own."""


def cut_off(model: ModelProto, before: ModelProto) -> dict[str, Any]:
    """Return the biases of the float model ``before`` that int32 did not hold in the quantized one: name to values."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {f"{tensor.name}_quantized": tensor for tensor in before.graph.initializer}
    found = {}
    for node in model.graph.node:
        place, scales = BIAS_AT.get(node.op_type, (0, ()))
        name = node.input[place] if scales and len(node.input) > place else ""
        if name not in weights or name not in values or weights[name].data_type != TensorProto.INT32:
            continue
        bias = numpy_helper.to_array(values[name]).astype(np.float64)
        factors = [numpy_helper.to_array(weights[node.input[other]]).astype(np.float64) for other in scales]
        scale = math.prod(factors[1:], start=factors[0])
        if bool((np.abs(bias) > HELD * scale).any()):
            found[name] = bias
    return found


def widen(model: ModelProto, biases: dict[str, Any]) -> None:
    """Give these biases scales of their own that hold them. Only where a bias is added in float: a kernel that adds in
    integers takes the product of its inputs' scales for granted.
    """
    import numpy as np
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in biases:
            continue
        bias, old = biases[node.input[0]], weights[node.input[1]]
        scale = np.float32(np.abs(bias).max() / USED)
        old.CopyFrom(numpy_helper.from_array(np.full(tuple(old.dims), scale, np.float32), old.name))
        held = np.round(bias / scale).astype(np.int32)
        weights[node.input[0]].CopyFrom(numpy_helper.from_array(held, node.input[0]))
