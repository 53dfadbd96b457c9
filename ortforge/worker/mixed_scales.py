"""Finds tensors that hold values of very different size and are rounded to one scale: small ones are ruined by it.

A detector's head concatenates boxes in pixels (0 to 640) and class scores (0 to 1). With one scale of 8 bits for both,
a step is 2.5, so that every score becomes 0, while the error of the whole is below one percent. What counts is each
slice along an axis, measured against its own variation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["SliceErrors", "candidates", "mixed_nodes", "ruined_slices"]

RUINED = 0.1
"""A slice is ruined when its error has more than this share of the energy of its variation (10 dB)."""

FLOOR = 1e-6
"""A slice that varies by less than this share of the tensor's largest value carries no signal."""

MAX_SLICES = 2048
"""Axes of more entries are positions rather than kinds of values, and cost too much to look at one by one."""

MAX_VALUES = 1 << 19
"""Of a larger tensor a part is looked at."""

LISTED = 16
"""Ruined slices that are listed by their numbers."""

MERGING = ("Concat", "Where", "ScatterND", "ScatterElements")
"""Operators that put values of different size into one tensor, as Mul and Div by a constant for each channel do."""

CARRIERS = (
    *("Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"),
    "Unsqueeze",
)
"""Operators whose output holds values of their first input as they are."""


@dataclass
class SliceErrors:
    """Sums over all samples of one tensor, for each slice along each of its axes."""

    axes: dict[int, dict[str, Any]] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    peak: float = 0.0

    def add(self, reference: Any, candidate: Any) -> None:
        """Add one sample; values that are not finite on either side count for nothing."""
        left, right = np.asarray(reference), np.asarray(candidate)
        if left.size > MAX_VALUES:  # of the longest axis, which then has no slices, a part stands for the whole
            longest = int(np.argmax(left.shape))
            self._drop(longest)
            part = (slice(None),) * longest + (slice(None, None, -(-left.size // MAX_VALUES)),)
            left, right = left[part], right[part]
        left = left.astype(np.float64)
        error = right.astype(np.float64) - left
        usable = np.isfinite(left) & np.isfinite(error)
        left, error = np.where(usable, left, 0.0), np.where(usable, error, 0.0)
        self.peak = max(self.peak, float(np.abs(left).max(initial=0.0)))
        for axis, size in enumerate(left.shape):
            if axis in self.dropped or not 2 <= size <= MAX_SLICES:
                self._drop(axis)
                continue
            others = tuple(place for place in range(left.ndim) if place != axis)
            new = {
                "count": usable.sum(axis=others, dtype=np.float64),
                "sum": left.sum(axis=others),
                "squares": np.square(left).sum(axis=others),
                "error": np.square(error).sum(axis=others),
            }
            old = self.axes.get(axis)
            if old is not None and len(old["sum"]) != size:  # a free dimension: its entries are no kinds of values
                self._drop(axis)
            else:
                self.axes[axis] = new if old is None else {name: old[name] + new[name] for name in new}

    def _drop(self, axis: int) -> None:
        self.dropped.add(axis)
        self.axes.pop(axis, None)


def ruined_slices(sums: SliceErrors) -> dict[str, Any] | None:
    """Return the axis along which some slices are ruined and others are not, or ``None``.

    ``axis``, ``slices`` (how many there are), ``ruined`` (how many are ruined), ``numbers`` (the first of them) and
    ``worst`` (the largest error as a share of the variation's energy). Of several axes, the one with the largest share
    of ruined slices.
    """
    best: dict[str, Any] | None = None
    for axis, one in sums.axes.items():
        count = np.maximum(one["count"], 1.0)
        variance = one["squares"] / count - np.square(one["sum"] / count)
        alive = variance > (FLOOR * sums.peak) ** 2
        share = np.divide(one["error"] / count, variance, out=np.zeros_like(variance), where=alive)
        ruined = alive & (share > RUINED)
        number = int(ruined.sum())
        if not number or number == int(alive.sum()):
            continue
        if best is None or number / len(ruined) > best["ruined"] / best["slices"]:
            numbers = [int(place) for place in np.flatnonzero(ruined)[:LISTED]]
            worst = float(share.max())
            best = {"axis": axis, "slices": len(ruined), "ruined": number, "numbers": numbers, "worst": worst}
    return best


def candidates(graph: Any) -> set[str]:
    """Return the tensors of a graph that may hold values of very different size, and matter as they are."""
    makers = {name: node for node in graph.node for name in node.output if name}
    ends = _carried_to_outputs(graph, makers)
    many = {tensor.name for tensor in graph.initializer if tensor.dims and max(tensor.dims) > 1}
    found = set()
    for tensor in makers:
        node, _ = _merger(tensor, makers)
        if tensor in ends or (node is not None and _merges(node, many)):
            found.add(tensor)
    return found


def _merges(node: Any, many: Collection[str]) -> bool:
    return node.op_type in MERGING or (node.op_type in ("Mul", "Div") and any(name in many for name in node.input))


def mixed_nodes(
    graph: Any, rounding: Mapping[str, SliceErrors], peaks: Mapping[str, float], quantized: Collection[str]
) -> list[dict[str, Any]]:
    """Return the nodes whose output has one scale for values of very different size, the most ruinous first.

    :param graph: the float model's. :param rounding: by tensor (see :func:`candidates`), what rounding it alone does.
    :param peaks: largest absolute value by tensor. :param quantized: names of the nodes that compute on rounded values.
    :returns: for each: ``node``, ``op``, ``tensor``, what :func:`ruined_slices` gives, ``inputs`` (name and ``peak``
        of each that is known) and ``nodes``, those to leave out.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    ends = _carried_to_outputs(graph, makers)
    order = {node.name: number for number, node in enumerate(graph.node)}
    found: dict[str, dict[str, Any]] = {}
    for tensor, sums in rounding.items():
        node, chain = _merger(tensor, makers)
        if node is None:
            continue
        ruin = ruined_slices(sums)
        names = {one.name for one in (*chain, *users.get(tensor, ()))} & set(quantized)
        if ruin is None or not names:
            continue
        key = node.output[0]
        entry = found.setdefault(key, {"node": node.name, "op": node.op_type, "tensor": tensor, **ruin, "nodes": []})
        if ruin["ruined"] / ruin["slices"] > entry["ruined"] / entry["slices"]:
            entry |= {"tensor": tensor, **ruin}
        entry["nodes"] = sorted({*entry["nodes"], *names}, key=lambda name: order.get(name, 0))
        entry["inputs"] = [{"tensor": name, "peak": peaks[name]} for name in node.input if name in peaks]
        entry["at_output"] = tensor in ends
    return sorted(found.values(), key=lambda one: (not one["at_output"], -one["ruined"] / one["slices"]))


def _merger(tensor: str, makers: Mapping[str, Any]) -> tuple[Any, Sequence[Any]]:
    """Return the node in which a tensor's values came together, and the nodes from there to the tensor."""
    chain = []
    while (node := makers.get(tensor)) is not None:
        chain.append(node)
        if node.op_type not in CARRIERS or not node.input:
            return node, chain
        tensor = node.input[0]
    return None, chain


def _carried_to_outputs(graph: Any, makers: Mapping[str, Any]) -> set[str]:
    """Return the tensors whose values are those of an output of the model."""
    found: set[str] = set()
    stack = [value.name for value in graph.output]
    while stack:
        name = stack.pop()
        if name in found:
            continue
        found.add(name)
        node = makers.get(name)
        if node is not None and node.op_type in CARRIERS and node.input:
            stack.append(node.input[0])
        elif node is not None and node.op_type == "Concat":
            stack.extend(node.input)
    return found
