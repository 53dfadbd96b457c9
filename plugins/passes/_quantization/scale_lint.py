"""Scales of a quantized model that ruin it, and the masks that are the likely cause.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._models import onnx_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["lint_scales", "mask_constants", "some"]

HUGE_SCALE: Final = 1e6
"""A step of a million between two neighbouring values: no trained activation is spread like that."""

ABSURD_SCALE: Final = 1e10
"""From here on every ordinary value of the tensor becomes zero."""

TINY_SCALE: Final = 1e-30


def mask_constants(model: ModelProto) -> list[str]:
    """Return the names of constants that hold a mask's "minus infinity" (beyond 1e30 in magnitude)."""
    import numpy as np
    from onnx import numpy_helper

    found = []
    for tensor in onnx_graph.float_weights(model):
        values = numpy_helper.to_array(tensor).ravel()
        # These two pass over NaN, and make no copies.
        if values.size and max(np.fmax.reduce(values), -np.fmin.reduce(values)) > onnx_graph.MASK_MAGNITUDE:
            found.append(tensor.name)
    return found


def lint_scales(model: ModelProto, *, masks: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """Look at every scale of a quantized model; return a sentence for each kind of trouble, naming tensors.

    ``masks`` are the float model's constants of "minus infinity", named as the likely cause. Tensors in ``known`` are
    left out: their trouble was said before.
    """
    import numpy as np

    absurd, huge, tiny = [], [], []
    for name, scale in _scales(model):
        if name in known:
            continue
        largest, smallest = float(np.max(scale)), float(np.min(scale))
        if not np.isfinite(scale).all() or largest > ABSURD_SCALE:
            absurd.append(f"{name} ({largest:.2g})")
        elif largest > HUGE_SCALE:
            huge.append(f"{name} ({largest:.2g})")
        elif smallest < TINY_SCALE:
            tiny.append(f"{name} ({smallest:.2g})")
    found = []
    if absurd:
        cause = (
            f" The model holds mask constants of about -3.4e38 ({some(masks)}), which calibration took for data."
            if masks
            else " Calibration saw infinite or enormous values there."
        )
        found.append(
            f"RUINED RANGES: the scale of {some(absurd)} makes every ordinary value zero.{cause} Leave those nodes "
            "out with nodes_to_exclude, limit op_types to MatMul and Conv, or replace the constants by -1e4."
        )
    if huge:
        found.append(f"The scale of {some(huge)} is above 1e6: look for outliers in the calibration data there.")
    if tiny:
        found.append(
            f"The scale of {some(tiny)} is below 1e-30: always zero in the calibration data, or a weight of zeros."
        )
    return found


def _scales(model: ModelProto) -> list[tuple[str, NDArray[np.floating[Any]]]]:
    """Pair each quantized tensor's name with its scale, for all scales that are constants."""
    from onnx import numpy_helper

    found = {}
    for graph in onnx_graph.graphs(model):
        weights = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for position in _scale_inputs(node.op_type, len(node.input)):
                name = node.input[position]
                if name in weights and name not in found:
                    value = numpy_helper.to_array(weights[name])
                    found[name] = (name.removesuffix("_scale"), value)
    return [pair for pair in found.values() if pair[1].size]


def _scale_inputs(op_type: str, inputs: int) -> range | tuple[int, ...]:
    """Positions of the scales among an operator's inputs (ONNX's and com.microsoft's operator definitions)."""
    if op_type in ("QuantizeLinear", "DequantizeLinear"):
        return (1,)
    known: dict[str, tuple[int, ...]] = {
        "QLinearConv": (1, 4, 6),
        "QLinearMatMul": (1, 4, 6),
        "QGemm": (1, 4, 7),
        "QLinearAdd": (1, 4, 6),
        "QLinearMul": (1, 4, 6),
    }
    if op_type in known:
        return tuple(position for position in known[op_type] if position < inputs)
    if op_type == "QLinearConcat":
        return (0, *range(3, inputs, 3))
    if op_type.startswith("QLinear"):
        return tuple(position for position in (1, 3) if position < inputs)
    return ()


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
