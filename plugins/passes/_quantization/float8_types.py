"""What quantization to 8-bit floats (E4M3FN) needs beyond ONNX Runtime's quantizer, so that the model is not ruined.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["LARGEST", "deviation_of_all", "left_out", "rescale_weights", "shield_activations"]

LARGEST: Final = 448.0
"""Largest number of float8 E4M3FN (ONNX, "Float stored in 8 bits")."""


def deviation_of_all() -> float:
    """Return the standard deviation of all finite float8 E4M3FN numbers, which ONNX Runtime divides a tensor's by."""
    import numpy as np

    exponents, fractions = np.meshgrid(np.arange(16), np.arange(8))
    normal = (1 + fractions / 8) * np.exp2(exponents - 7.0)
    values = np.where(exponents == 0, fractions / 8 * np.exp2(-6.0), normal)
    # The largest exponent with the largest fraction is NaN; the numbers come with both signs.
    finite = values[~((exponents == 15) & (fractions == 7))]
    return float(np.sqrt(np.mean(np.square(finite))))


def left_out(model: ModelProto) -> list[str]:
    """Return the names of the nodes that ONNX Runtime's quantizer fails at with these types.

    It puts a range of its own in place of Softmax's, which lacks what the scale is made from; and the scale of a
    constant is zero, so that a constant zero becomes NaN.
    """
    import numpy as np
    from onnx import numpy_helper

    zeros = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == tensor.FLOAT and not np.any(numpy_helper.to_array(tensor))
    }
    found = []
    for node in model.graph.node:
        # The third input of these is a bias, which stays float.
        read = node.input[:2] if node.op_type in ("Conv", "ConvTranspose", "Gemm") else node.input
        if node.op_type == "Softmax" or not zeros.isdisjoint(read):
            found.append(node.name)
    return found


def rescale_weights(model: ModelProto, before: ModelProto) -> int:
    """Give the weights of the float model ``before`` scales that just hold them; return how many.

    ONNX Runtime takes the scale from the standard deviation: that of a constant is zero, and so is everything then;
    what lies beyond four and a half deviations is cut off.
    """
    import numpy as np
    from ml_dtypes import float8_e4m3fn
    from onnx import TensorProto, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    floats = {f"{tensor.name}_quantized": tensor for tensor in before.graph.initializer}
    done = set()
    for node in model.graph.node:
        name = node.input[0] if node.op_type == "DequantizeLinear" else ""
        if name in done or name not in weights or name not in floats:
            continue
        if weights[name].data_type != TensorProto.FLOAT8E4M3FN:
            continue
        values, old = numpy_helper.to_array(floats[name]).astype(np.float32), weights[node.input[1]]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        if old.dims and old.dims[0] > 1:
            others = tuple(number for number in range(values.ndim) if number != axis % values.ndim)
            reach = np.abs(values).max(axis=others)
            scale = np.where(reach > 0, reach, 1.0).astype(np.float32) / np.float32(LARGEST)
            spread = scale.reshape([-1 if number == axis % values.ndim else 1 for number in range(values.ndim)])
        else:
            reach = np.abs(values).max() if values.size else 0.0
            scale = spread = np.full(tuple(old.dims), (float(reach) or 1.0) / LARGEST, np.float32)
        old.CopyFrom(numpy_helper.from_array(scale, old.name))
        held = np.clip(values / spread, -LARGEST, LARGEST).reshape(values.shape).astype(float8_e4m3fn)
        weights[name].CopyFrom(numpy_helper.from_array(held, name))
        done.add(name)
    return len(done)


def shield_activations(model: ModelProto) -> int:
    """Write Relu and Clip before QuantizeLinear as Max and Min; return how many.

    When a session optimizes a model, ONNX Runtime (1.32 at least) drops both where the zero point does their work. That
    of an 8-bit float is 0, the lowest of the unsigned integers that the numbers are stored as, so it believes that they
    have no sign and drops them here, too.
    """
    from onnx import TensorProto, helper

    quantized = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kept, changed, zero = [], 0, "float8_relu_zero"
    for node in model.graph.node:
        name = node.output[0] if node.output else ""
        if name not in quantized or node.op_type not in ("Relu", "Clip"):
            kept.append(node)
            continue
        changed += 1
        low = zero if node.op_type == "Relu" else (node.input[1] if len(node.input) > 1 else "")
        high = node.input[2] if node.op_type == "Clip" and len(node.input) > 2 else ""
        bounds = [(op, bound) for op, bound in (("Max", low), ("Min", high)) if bound]
        at = node.input[0]
        for number, (op, bound) in enumerate(bounds):
            made = name if number == len(bounds) - 1 else f"{name}_{op}"
            kept.append(helper.make_node(op, [at, bound], [made], name=f"{node.name}_{op}"))
            at = made
        if not bounds:
            kept.append(helper.make_node("Identity", [at], [name], name=f"{node.name}_Identity"))
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(kept)
        if any(zero in node.input for node in kept):
            model.graph.initializer.append(helper.make_tensor(zero, TensorProto.FLOAT, [], [0.0]))
    return changed
