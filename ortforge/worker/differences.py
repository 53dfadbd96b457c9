"""differences: where a changed model's tensors leave those of the model that it was made from.

Both models are run with the tensors in between as outputs: the float one on the CPU EP, the other on the cell's EP.
Graph optimizations are off on both sides, since every tensor that is an output prevents a fusion anyway.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .protocol import Channel, JobError

__all__ = ["first_diverging", "match", "nodes_to_exclude", "run", "weight_errors"]

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
EXCLUDED_SHARE = 0.5
"""The list of nodes to exclude covers this share of the noise that is added along the graph…"""
EXCLUDED_NODES = 0.25
"""… with at most this share of the nodes that were quantized, and at least one place."""


@dataclass(frozen=True)
class Tap:
    """A tensor of the changed model: its name, and scale and zero point if it holds integers."""

    name: str
    scale: Any = None
    zero: Any = None


@dataclass
class Sums:
    """Sums over all samples, of one tensor."""

    dot: float = 0.0
    reference: float = 0.0
    candidate: float = 0.0
    error: float = 0.0
    largest: float = 0.0

    def add(self, left: Any, right: Any) -> None:
        a, b = np.asarray(left, np.float64).ravel(), np.asarray(right, np.float64).ravel()
        self.dot += float(a @ b)
        self.reference += float(a @ a)
        self.candidate += float(b @ b)
        self.error += float(((a - b) ** 2).sum())
        self.largest = max(self.largest, float(np.abs(a - b).max(initial=0.0)))

    @property
    def noise(self) -> float:
        """Energy of the error over that of the signal."""
        if self.error == 0.0:
            return 0.0
        return self.error / self.reference if self.reference else math.inf

    def facts(self) -> dict[str, Any]:
        """SQNR in dB (``None``: no error, or no signal; ``exact`` tells), cosine and the largest error."""
        norms = math.sqrt(self.reference) * math.sqrt(self.candidate)
        finite = 0.0 < self.noise < math.inf
        return {
            "sqnr_db": -10.0 * math.log10(self.noise) if finite else None,
            "exact": self.noise == 0.0,
            "cosine": max(-1.0, min(1.0, self.dot / norms)) if norms else float(self.noise == 0.0),
            "max_abs": self.largest if math.isfinite(self.largest) else None,
        }


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``differences`` job: compare ``model`` with ``reference`` on the first ``count`` samples."""
    import onnx
    import onnxruntime as ort

    from . import tensors
    from .samples import Samples
    from .session import open_session

    samples = Samples(job["samples"])
    if not len(samples):
        raise JobError("input", "there are no samples to compare the models on")
    before, after = onnx.load(job["reference"]), onnx.load(job["model"])
    taps = match(before.graph, after.graph)
    if not taps:
        raise JobError("unsupported", "no tensor of the model was found again in the one that was made from it")
    channel.phase("load")
    plain = {**job["session"], "graph_optimization_level": "disable"}
    left = _tapped(before, sorted(taps), Path("reference.onnx"), onnx)
    right = _tapped(after, sorted({tap.name for tap in taps.values()}), Path("model.onnx"), onnx)
    float_session = open_session(ort, left, [["CPUExecutionProvider", {}]], {"graph_optimization_level": "disable"})
    session = open_session(ort, right, job["providers"], plain)
    channel.phase("run")
    sums = {name: Sums() for name in taps}
    count = min(int(job["count"]), len(samples))
    for number in range(count):
        feeds = samples[number]
        cast = tensors.cast_feeds(feeds, job["session"].get("inputs") or {}, number)
        wanted = dict(zip(sorted(taps), float_session.session.run(sorted(taps), feeds), strict=True))
        names = sorted({tap.name for tap in taps.values()})
        found = dict(zip(names, session.session.run(names, cast), strict=True))
        for name, tap in taps.items():
            value = _value(tap, found[tap.name])
            if wanted[name].dtype.kind == "f" and value.shape == wanted[name].shape:
                sums[name].add(wanted[name], value)
    seen = {name: one for name, one in sums.items() if one.reference or one.candidate}
    threshold = float(job["threshold_db"])
    listed = _listed(before.graph, seen)
    channel.finish(
        {
            "samples": count,
            "threshold_db": threshold,
            "tensors": listed,
            "unmatched": len({name for node in before.graph.node for name in node.output if name} - set(seen)),
            "first_diverging": first_diverging(before.graph, seen, threshold),
            "weights": weight_errors(before.graph, after.graph),
            "nodes_to_exclude": nodes_to_exclude(before.graph, after.graph, seen),
            "unnamed_nodes": sum(not node.name for node in before.graph.node),
        }
    )


def _tapped(model: Any, names: Sequence[str], path: Path, onnx: Any) -> str:
    """Write a model that puts out the tensors ``names`` as well; return its path."""
    known = {value.name for value in model.graph.output}
    copy = type(model)()
    copy.CopyFrom(model)
    for name in names:
        if name not in known:
            copy.graph.output.add(name=name)
    size = copy.ByteSize()
    onnx.save(copy, str(path), save_as_external_data=size > 1 << 30, location=f"{path.name}.data")
    return str(path)


def _value(tap: Tap, found: Any) -> Any:
    if tap.scale is None:
        return found
    return (found.astype(np.float64) - tap.zero) * tap.scale


def match(before: Any, after: Any) -> dict[str, Tap]:
    """Find each tensor that the float graph's nodes make in the other graph, with the noise it was given there.

    Names follow ONNX Runtime's quantizers (``X_QuantizeLinear_Output``, ``X_quantized`` with ``X_scale``), which keep
    those of float tensors; where a converter renamed a tensor, its node's name and the output's place tell.

    :param before: the float ``GraphProto``. :param after: that of the changed model.
    """
    made = {name: node for node in after.node for name in node.output if name}
    users: dict[str, list[Any]] = {}
    for node in after.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    named = {node.name: node for node in after.node if node.name}
    constants = {tensor.name: tensor for tensor in after.initializer}
    own = {name for node in before.node for name in node.output}
    taps = {}
    for node in before.node:
        if node.op_type == "Constant":
            continue
        for place, name in enumerate(node.output):
            if not name:
                continue
            tap = _found(name, made, users, constants)
            twin = named.get(node.name) if node.name else None
            if tap is None and twin is not None and place < len(twin.output) and _is_renamed(twin.output[place], own):
                tap = Tap(_dequantized(twin.output[place], users))
            if tap is not None:
                taps[name] = tap
    for node in before.node:
        # QOperator: the cut-off is in the integers of what went into it, under that one's name.
        if node.op_type in ("Relu", "Clip") and node.output[0] not in taps and node.input[0] in taps:
            taps[node.output[0]] = taps.pop(node.input[0])
    return taps


def _is_renamed(name: str, own: Collection[str]) -> bool:
    """Whether a tensor is no other one of the float model: a Conv that took in its Relu puts out the Relu's tensor."""
    return bool(name) and re.sub(r"_(QuantizeLinear_Input|QuantizeLinear_Output|quantized)$", "", name) not in own


def _found(name: str, made: Mapping[str, Any], users: Mapping[str, Any], constants: Mapping[str, Any]) -> Tap | None:
    from onnx import numpy_helper

    for candidate in (name, f"{name}_QuantizeLinear_Input"):
        if candidate in made:
            return Tap(_dequantized(candidate, users))
    if f"{name}_DequantizeLinear_Output" in made:
        return Tap(f"{name}_DequantizeLinear_Output")
    whole, scale, zero = f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"
    if whole in made and scale in constants and zero in constants:
        values = [numpy_helper.to_array(constants[one]).astype(np.float64) for one in (scale, zero)]
        return Tap(whole, *values)
    return None


def _dequantized(name: str, users: Mapping[str, Any]) -> str:
    """Follow a float tensor through its QuantizeLinear and DequantizeLinear, if it has them."""
    for quantize in users.get(name, ()):
        if quantize.op_type == "QuantizeLinear":
            for dequantize in users.get(quantize.output[0], ()):
                if dequantize.op_type == "DequantizeLinear":
                    return str(dequantize.output[0])
    return name


def _listed(graph: Any, seen: Mapping[str, Sums]) -> list[dict[str, Any]]:
    """The tensors in the order in which the float graph makes them."""
    return [
        {"tensor": name, "node": node.name, "op": node.op_type, **seen[name].facts()}
        for node in graph.node
        for name in node.output
        if name in seen
    ]


def first_diverging(graph: Any, seen: Mapping[str, Sums], threshold_db: float) -> dict[str, Any] | None:
    """Return the first node in topological order whose inputs are within the threshold and whose output is not."""
    limit = 10.0 ** (-threshold_db / 10.0)
    for node in graph.node:
        if any(name in seen and seen[name].noise > limit for name in node.input):
            continue
        for name in node.output:
            if name in seen and seen[name].noise > limit:
                return {"node": node.name, "op": node.op_type, "tensor": name, **seen[name].facts()}
    return None


def weight_errors(before: Any, after: Any) -> list[dict[str, Any]]:
    """Compare float weights with what the changed model has in their place, worst first. Scalars count, too."""
    from onnx import numpy_helper

    changed = {tensor.name: tensor for tensor in after.initializer}
    axes = {
        node.input[0]: next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
        for node in after.node
        if node.op_type == "DequantizeLinear"
    }
    found = []
    for tensor in before.initializer:
        if tensor.data_type not in (1, 10, 11):
            continue
        value = numpy_helper.to_array(tensor)
        other = _weight(tensor.name, value, changed, axes)
        if other is None or other.shape != value.shape:
            continue
        sums = Sums()
        sums.add(value, other)
        if sums.noise:
            found.append({"weight": tensor.name, "shape": list(value.shape), **sums.facts()})
    return sorted(found, key=_badness)


def _weight(name: str, value: Any, changed: Mapping[str, Any], axes: Mapping[str, int]) -> Any:
    from onnx import numpy_helper

    if name in changed:
        kept = numpy_helper.to_array(changed[name])
        return kept if kept.dtype.kind == "f" else None
    names = [f"{name}_{part}" for part in ("quantized", "scale", "zero_point")]
    if not all(part in changed for part in names):
        return None
    parts = [changed[part] for part in names]
    whole, scale, zero = (np.asarray(numpy_helper.to_array(part)).astype(np.float64) for part in parts)
    if scale.size > 1:
        axis = axes.get(f"{name}_quantized")
        if axis is None or axis >= whole.ndim or whole.shape[axis] != scale.size:
            fitting = [place for place, size in enumerate(whole.shape) if size == scale.size]
            if not fitting:
                return None
            axis = fitting[0]
        shape = [-1 if place == axis else 1 for place in range(whole.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((whole - zero) * scale).reshape(value.shape) if whole.size == value.size else None


def _badness(entry: Mapping[str, Any]) -> float:
    if entry["sqnr_db"] is None:
        return math.inf if entry["exact"] else -math.inf
    return float(entry["sqnr_db"])


def nodes_to_exclude(before: Any, after: Any, seen: Mapping[str, Sums]) -> list[str]:
    """Return the nodes around the tensors that add most noise: those that make them and those that use them.

    A tensor adds what its noise exceeds that of the noisiest input of its node by. It stays quantized as long as
    anything around it is, so its users are named, too. Empty when nothing in the changed model is quantized.
    """
    touched = _touched(after)
    added: list[tuple[float, set[str]]] = []
    for node in before.node:
        inputs = max((seen[name].noise for name in node.input if name in seen), default=0.0)
        for name in node.output:
            if name not in seen:
                continue
            around = {node.name, *(user.name for user in before.node if name in user.input)} & touched
            more = min(seen[name].noise, 1e6) - inputs
            if more > 0 and around:
                added.append((more, around))
    added.sort(key=lambda pair: -pair[0])
    total, covered, chosen = sum(more for more, _ in added), 0.0, set[str]()
    for more, around in added:
        if chosen and (covered >= EXCLUDED_SHARE * total or len(chosen | around) > EXCLUDED_NODES * len(touched)):
            break
        chosen |= around
        covered += more
    return [node.name for node in before.node if node.name in chosen]


def _touched(after: Any) -> set[str]:
    """Names of the nodes that compute on quantized values, as the float model has them."""
    made = {name: node for node in after.node for name in node.output}
    found = set()
    for node in after.node:
        if not node.name or node.op_type in QUANTIZERS:
            continue
        if any(name in made and made[name].op_type == "DequantizeLinear" for name in node.input):
            found.add(node.name)
        elif re.match(r"QLinear|QGemm|QAttention", node.op_type) or "Integer" in node.op_type:
            found |= {node.name, re.sub(r"_(quant|MatMul_quant)$", "", node.name)}
    return found
