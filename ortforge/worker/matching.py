"""Finds the tensors and weights of a model again in the one that passes made from it.

ONNX Runtime's quantizers keep the names of float tensors and put their own at the end of them: ``X`` becomes
``X_QuantizeLinear_Output`` and ``X_DequantizeLinear_Output`` (QDQ), or ``X_quantized`` (integer operators). What an
integer stands for is said by whoever reads or writes it: every integer operator is given each tensor with its scale
and zero point behind it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .attribution import Grid

__all__ = ["QUANTIZERS", "Tap", "absorbed", "grids", "match", "quantized_nodes", "weight_pairs"]

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")

_CARRIERS = (
    *("Flatten", "Gather", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose"),
    *("DepthToSpace", "Expand", "SpaceToDepth", "Tile", "Unsqueeze", "Relu", "Clip", "NhwcMaxPool"),
)
"""Operators that hand integers on as they are, so that what goes in and what comes out have one scale."""

_OWN_SCALE = re.compile(r"(DequantizeLinear|QLinear\w+|QGemm)$")
"""Operators that are given integers with the scale and the zero point behind each."""

_BLOCKED = ("GatherBlockQuantized", "MatMulBnb4", "MatMulNBits", "QAttention")
"""Operators with integer weights inside and names that do not say so."""

_SUFFIX = re.compile(r"_(QuantizeLinear_Input|QuantizeLinear_Output|quantized)$")

_FLOATS = (1, 10, 11, 16)
"""TensorProto's numbers of float, float16, double and bfloat16."""


@dataclass(frozen=True)
class Tap:
    """A tensor of the changed model: its name, and scale and zero point if it holds integers."""

    name: str
    scale: Any = None
    zero: Any = None

    def value(self, found: Any) -> Any:
        """Return what the tensor's content stands for."""
        if self.scale is None:
            return found
        return (found.astype(np.float64) - self.zero) * self.scale


@dataclass
class _Wiring:
    """Who makes and who uses each tensor of a graph, and its constants."""

    made: dict[str, Any] = field(default_factory=dict)
    users: dict[str, list[Any]] = field(default_factory=dict)
    named: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Any) -> _Wiring:
        wiring = cls(constants={tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            if node.name:
                wiring.named[node.name] = node
            for name in node.output:
                if name:
                    wiring.made[name] = node
            for name in node.input:
                wiring.users.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                for entry in node.attribute:
                    if entry.name == "value":
                        wiring.constants[node.output[0]] = entry.t
        return wiring


def match(before: Any, after: Any) -> dict[str, Tap]:
    """Find each tensor that the float graph's nodes make in the other graph, with the noise it was given there.

    Where a converter renamed a tensor, its node's name and the output's place tell.

    :param before: the float ``GraphProto``. :param after: that of the changed model.
    """
    wiring = _Wiring.of(after)
    own = {name for node in before.node for name in node.output}
    taps = {}
    for node in before.node:
        if node.op_type == "Constant":
            continue
        for place, name in enumerate(node.output):
            if not name:
                continue
            tap = _found(name, wiring)
            twin = wiring.named.get(node.name) or wiring.named.get(f"{node.name}_quant") if node.name else None
            if tap is None and twin is not None and place < len(twin.output) and _is_renamed(twin.output[place], own):
                tap = _read(twin.output[place], wiring)
            if tap is not None:
                taps[name] = tap
    for node in before.node:
        # Integer operators: the cut-off is in the integers of what went into it, under that one's name.
        if node.op_type in ("Relu", "Clip") and node.output[0] not in taps and node.input[0] in taps:
            taps[node.output[0]] = taps.pop(node.input[0])
    return taps


def _is_renamed(name: str, own: Collection[str]) -> bool:
    """Whether a tensor is no other one of the float model: a Conv that took in its Relu puts out the Relu's tensor."""
    return bool(name) and _SUFFIX.sub("", name) not in own


def _found(name: str, wiring: _Wiring) -> Tap | None:
    for candidate in (name, f"{name}_QuantizeLinear_Input"):
        if candidate in wiring.made:
            return _read(candidate, wiring)
    if f"{name}_DequantizeLinear_Output" in wiring.made:
        return Tap(f"{name}_DequantizeLinear_Output")
    for candidate in (f"{name}_quantized", f"{name}_QuantizeLinear_Output"):
        if candidate in wiring.made and (scale := _scale(candidate, wiring)) is not None:
            return Tap(candidate, *scale)
    return None


def _read(name: str, wiring: _Wiring) -> Tap:
    """Return how to read a tensor of any type: through its quantization if it has one, as a number if it is none."""
    maker = wiring.made[name]
    if _OWN_SCALE.match(maker.op_type) and maker.op_type != "DequantizeLinear":
        scale = _scale(name, wiring)
        return Tap(name, *scale) if scale is not None else Tap(name)
    for quantize in wiring.users.get(name, ()):
        if quantize.op_type == "QuantizeLinear":
            for dequantize in wiring.users.get(quantize.output[0], ()):
                if dequantize.op_type == "DequantizeLinear":
                    return Tap(str(dequantize.output[0]))
    return Tap(name)


def _scale(name: str, wiring: _Wiring) -> tuple[Any, Any] | None:
    """Return scale and zero point of a tensor of integers, or ``None`` when nobody around it says."""
    names = _scale_names(name, wiring)
    return _constants(names, wiring) if names else None


def _scale_names(name: str, wiring: _Wiring, asked: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the names of the constants that are a tensor's scale and zero point; nothing when nobody around it says.

    A scale per channel is none here: activations have a single one.
    """
    if name in asked:
        return ()
    asked |= {name}
    pairs: list[tuple[str, ...]] = []
    maker = wiring.made.get(name)
    if maker is not None and maker.op_type == "QuantizeLinear":
        pairs.append(tuple(maker.input[1:3]))
    for user in wiring.users.get(name, ()):
        if _OWN_SCALE.match(user.op_type):
            place = list(user.input).index(name)
            pairs.append(tuple(user.input[place + 1 : place + 3]))
    stem = _SUFFIX.sub("", name)
    pairs.append((f"{stem}_scale", f"{stem}_zero_point"))
    for pair in pairs:
        if _constants(pair, wiring) is not None:
            return pair
    around = [user.output[0] for user in wiring.users.get(name, ()) if _carries(user, name)]
    if maker is not None and maker.input and maker.op_type in _CARRIERS:
        around.append(maker.input[0])
    return next((said for other in around if (said := _scale_names(other, wiring, asked))), ())


def _carries(user: Any, name: str) -> bool:
    return user.op_type in _CARRIERS and bool(user.input) and user.input[0] == name


def _constants(names: tuple[str, ...], wiring: _Wiring) -> tuple[Any, Any] | None:
    from onnx import numpy_helper

    if not names or names[0] not in wiring.constants or wiring.constants[names[0]].data_type not in _FLOATS:
        return None
    zero = names[1] if len(names) > 1 else ""
    if zero and zero not in wiring.constants:
        return None
    scale = numpy_helper.to_array(wiring.constants[names[0]]).astype(np.float64)
    if scale.size != 1:
        return None
    offset = numpy_helper.to_array(wiring.constants[zero]).astype(np.float64) if zero else np.zeros(1)
    return scale.reshape(()), offset.reshape(())


_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15), 22: (-8, 7)}
"""Least and largest integer by TensorProto's number of the type: 8, 16 and 4 bits, without and with a sign."""


def grids(before: Any, after: Any) -> dict[str, Grid]:
    """Return what the float graph's tensors, its inputs included, are rounded to in the other graph."""
    wiring = _Wiring.of(after)
    found = {}
    names = [value.name for value in before.input] + [name for node in before.node for name in node.output if name]
    for name in names:
        for held in (name, f"{name}_QuantizeLinear_Input", f"{name}_quantized", f"{name}_QuantizeLinear_Output"):
            grid = _grid(held, wiring)
            if grid is not None:
                found[name] = grid
                break
    return found


def _grid(name: str, wiring: _Wiring) -> Grid | None:
    users = wiring.users.get(name, ())
    if any(user.op_type == "DynamicQuantizeLinear" for user in users):
        return Grid(*_RANGES[2])
    pairs: list[tuple[str, ...]] = [tuple(user.input[1:3]) for user in users if user.op_type == "QuantizeLinear"]
    maker = wiring.made.get(name)
    if maker is not None and maker.op_type.startswith("Q"):
        pairs.append(_scale_names(name, wiring))
    for pair in pairs:
        said = _constants(pair, wiring)
        if said is not None and len(pair) > 1 and wiring.constants[pair[1]].data_type in _RANGES:
            kind = wiring.constants[pair[1]].data_type
            return Grid(*_RANGES[kind], float(said[0]), float(said[1]))
    return None


def quantized_nodes(before: Any, after: Any) -> set[str]:
    """Names of the float model's nodes that compute on quantized values in the other, those taken in included."""
    wiring = _Wiring.of(after)
    own = {node.name for node in before.node if node.name}
    found = set()
    for node in after.node:
        if not node.name or node.op_type in QUANTIZERS:
            continue
        reads = any(name in wiring.made and wiring.made[name].op_type == "DequantizeLinear" for name in node.input)
        if reads or _OWN_SCALE.match(node.op_type) or "Integer" in node.op_type or node.op_type in _BLOCKED:
            found |= {node.name, re.sub(r"_(MatMul_quant|quant|Q\d+)$", "", node.name)}
    found &= own
    for name, into in absorbed(before, after).items():
        if into in found:
            found.add(name)
    return found


def absorbed(before: Any, after: Any) -> dict[str, str]:
    """Return which Relu and Clip the quantizer took into the node before it: their names, and that node's."""
    still = {re.sub(r"_quant$", "", node.name) for node in after.node}
    makers = {name: node for node in before.node for name in node.output}
    return {
        node.name: makers[node.input[0]].name
        for node in before.node
        if node.op_type in ("Relu", "Clip") and node.name not in still and node.input[0] in makers
    }


# Weights


def weight_pairs(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """Return each float weight that the changed model has too: its name, its value, and what that has in its place."""
    from onnx import numpy_helper

    wiring = _Wiring.of(after)
    pairs = []
    for name, tensor in _Wiring.of(before).constants.items():
        if tensor.data_type not in _FLOATS[:3]:
            continue
        value = numpy_helper.to_array(tensor)
        other = _weight(name, value, wiring)
        if other is not None and other.shape == value.shape:
            pairs.append((name, value, other))
    return pairs


def _weight(name: str, value: Any, wiring: _Wiring) -> Any:
    from onnx import numpy_helper

    constants = wiring.constants
    if name in constants:
        kept = numpy_helper.to_array(constants[name])
        return kept if kept.dtype.kind == "f" else None
    # Biases have 32 bits, and names of their own for scale and zero point.
    spellings = [(f"{name}_quantized", f"{stem}_scale", f"{stem}_zero_point") for stem in (name, f"{name}_quantized")]
    names = next((one for one in spellings if all(part in constants for part in one)), None)
    if names is None:
        return None
    parts = [constants[part] for part in names]
    whole, scale, zero = (np.asarray(numpy_helper.to_array(part)).astype(np.float64) for part in parts)
    if whole.size != value.size:
        return None
    if scale.size > 1:
        axis = _channel_axis(names[0], whole.ndim, wiring)
        if axis is None or whole.shape[axis] != scale.size:
            return None
        shape = [-1 if place == axis else 1 for place in range(whole.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((whole - zero) * scale).reshape(value.shape)


def _channel_axis(name: str, dimensions: int, wiring: _Wiring) -> int | None:
    """Return along which axis a quantized weight has its scales: as its user's operator is defined."""
    for user in wiring.users.get(name, ()):
        integers = {entry.name: entry.i for entry in user.attribute if entry.name in ("axis", "transB")}
        if user.op_type == "DequantizeLinear":
            axis = integers.get("axis", 1)
            return axis % dimensions if -dimensions <= axis < dimensions else None
        if "Conv" in user.op_type:
            return 0
        if user.op_type == "QGemm":
            return 0 if integers.get("transB") else 1
        if "MatMul" in user.op_type:
            return dimensions - 1
    return None
