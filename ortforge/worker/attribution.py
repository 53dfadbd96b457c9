"""Whose noise is it? Shares the noise of a model's outputs out among the tensors and weights that were rounded.

A tensor's noise is what came in and what its own rounding added. From the outputs back to the inputs, each node hands
its share on: to the rounding of its own output and of its weights, and to the tensors that it reads, in proportion to
their noise. In proportion to the signal where a node multiplies, so that 1 % in a factor is 1 % in the product; as it
stands where it adds, since there the large term's error counts. What a node only makes visible (the difference of two
nearly equal means) is thus put down to what was rounded before it.

A first-order account: it takes errors for independent, and a node's inputs for equally important. It ranks; it proves
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Grid", "Place", "Rounded", "first_nodes", "places"]

ADDING = ("Add", "Concat", "Max", "Mean", "Min", "Sub", "Sum", "Where")
"""Operators whose inputs' errors count as they stand, not in proportion to each input's signal."""

ENOUGH = 1 << 17
"""Of a larger tensor only about so many values are rounded: the mean of their errors is known to a percent."""

RUN = 1 << 10
"""They are taken in runs of this length, evenly spaced: single ones would touch all of the tensor's memory."""

CEILING = 1e6
"""What noise counts for at most, as a share of the signal: where there is no signal it would be infinite."""


@dataclass(frozen=True)
class Grid:
    """The values that a rounded tensor can have: ``(n - zero) * scale`` for whole ``n`` from ``low`` to ``high``.

    Without a scale the range is taken from each tensor itself, zero included, as DynamicQuantizeLinear does.
    """

    low: int
    high: int
    scale: float | None = None
    zero: float = 0.0

    def rounded(self, values: Any) -> Any:
        """Return values as the grid has them."""
        scale, zero = self.scale, self.zero
        if scale is None:
            least, most = min(0.0, float(values.min(initial=0.0))), max(0.0, float(values.max(initial=0.0)))
            scale = (most - least) / (self.high - self.low) or 1.0
            zero = float(np.rint(self.low - least / scale))
        whole = np.clip(np.rint(values / scale) + zero, self.low, self.high)
        return (whole - zero) * scale


@dataclass
class Rounded:
    """Energies of a float tensor and of what rounding it alone does to it, over all samples, or a part of each."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, values: Any, grid: Grid) -> None:
        """Add one sample; what is not finite counts for nothing."""
        flat = np.asarray(values).ravel()
        if flat.size > ENOUGH:
            rows = flat[: flat.size - flat.size % RUN].reshape(-1, RUN)
            flat = rows[:: -(-len(rows) * RUN // ENOUGH)].ravel()
        flat = flat.astype(np.float64)
        flat = flat[np.isfinite(flat)]
        self.signal += float(np.square(flat).sum())
        self.error += float(((grid.rounded(flat) - flat) ** 2).sum())

    @property
    def noise(self) -> float:
        """Energy of the error over that of the signal."""
        return min(CEILING, self.error / self.signal) if self.signal else 0.0


@dataclass(frozen=True)
class Place:
    """A tensor or a weight that is rounded, its share of the noise, and the nodes to leave out to have it in float."""

    tensor: str
    node: str
    op: str
    share: float
    nodes: tuple[str, ...]
    is_weight: bool = False

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        named = {"tensor": self.tensor, "node": self.node, "op": self.op}
        return {**named, "share": self.share, "nodes": list(self.nodes), "is_weight": self.is_weight}


@dataclass
class _Account:
    """Noise and signal of every tensor of the float graph, measured where it can be and carried on where not."""

    graph: Any
    noise: dict[str, float] = field(default_factory=dict)
    signal: dict[str, float] = field(default_factory=dict)

    def carry(self, weights: Mapping[str, float]) -> None:
        """Fill in the tensors without a counterpart: what their node read, and its weights."""
        for node in self.graph.node:
            carried = sum(self.noise.get(name, 0.0) + weights.get(name, 0.0) for name in node.input)
            for name in node.output:
                self.noise.setdefault(name, min(CEILING, carried))

    def sources(self, node: Any, rounding: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
        """Return what a node's noise comes from, by name, as parts of the whole: ``""`` is its own rounding."""
        out = node.output[0]
        parts = {"": rounding.get(out, 0.0)}
        adds = node.op_type in ADDING and all(name in self.signal for name in node.input if name in self.noise)
        for name in node.input:
            noise = self.noise.get(name, 0.0) + weights.get(name, 0.0)
            parts[name] = noise * self.signal.get(name, 1.0) if adds and name in self.noise else noise
        if adds:
            parts[""] *= self.signal.get(out, 1.0)
        total = sum(parts.values())
        return {name: part / total for name, part in parts.items() if part > 0.0} if total > 0.0 else {}


def places(
    graph: Any,
    measured: Mapping[str, tuple[float, float]],
    rounding: Mapping[str, float],
    weights: Mapping[str, float],
    quantized: set[str],
    taken_in: Mapping[str, str],
) -> list[Place]:
    """Return what is rounded, with its share of the outputs' noise, the largest first.

    :param graph: the float model's. :param measured: noise and signal energy of its tensors in the changed model.
    :param rounding: noise of rounding each tensor alone, the graph's inputs included; :param weights: the same of
        weights. :param quantized: names of the nodes that compute on rounded values. :param taken_in: Relu and Clip
        that are part of the node before them now.
    """
    account = _Account(graph)
    for name, (noise, signal) in measured.items():
        account.noise[name], account.signal[name] = min(CEILING, noise), signal
    for value in graph.input:
        if value.name in rounding:
            account.noise[value.name] = rounding[value.name]
    account.carry(weights)
    credit: dict[str, float] = defaultdict(float)
    for value in graph.output:
        credit[value.name] += account.noise.get(value.name, 0.0)
    shares: dict[str, float] = defaultdict(float)
    unexplained: dict[str, float] = defaultdict(float)
    for node in reversed(graph.node):
        amount = sum(credit.get(name, 0.0) for name in node.output if name)
        if not amount:
            continue
        sources = account.sources(node, rounding, weights)
        if not sources:
            unexplained[node.output[0]] += amount  # its kernel alone: weights in blocks, 4-bit formats …
        for name, part in sources.items():
            if name in weights or not name:
                shares[name or node.output[0]] += amount * part
            else:
                credit[name] += amount * part
    for value in graph.input:
        shares[value.name] += credit.get(value.name, 0.0)
    for name, amount in unexplained.items():
        shares[name] += amount
    return _named(graph, shares, weights, quantized, taken_in)


def _named(
    graph: Any,
    shares: Mapping[str, float],
    weights: Mapping[str, float],
    quantized: set[str],
    taken_in: Mapping[str, str],
) -> list[Place]:
    makers = {name: node for node in graph.node for name in node.output if name}
    users: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    order = {node.name: number for number, node in enumerate(graph.node)}
    found, total = [], 0.0
    for name, amount in shares.items():
        around = {node.name for node in users[name]}
        maker = makers.get(name)
        if maker is not None:
            around |= {maker.name, taken_in.get(maker.name, "")}
        around |= {taken for taken, by in taken_in.items() if by in around}
        nodes = sorted(around & quantized, key=order.__getitem__)
        if amount > 0.0 and nodes:
            at = maker or users[name][0]
            found.append((amount, Place(name, at.name, at.op_type, amount, tuple(nodes), name in weights)))
            total += amount
    found.sort(key=lambda pair: -pair[0])
    return [Place(one.tensor, one.node, one.op, amount / total, one.nodes, one.is_weight) for amount, one in found]


def first_nodes(places: Sequence[Place], share: float, most: float) -> list[str]:
    """Return the nodes of the places that have a share of the noise together: at most so many, at least one place's."""
    covered, chosen = 0.0, dict[str, None]()
    for place in places:
        more = chosen | dict.fromkeys(place.nodes)
        if chosen and (covered >= share or len(more) > most):
            break
        chosen = more
        covered += place.share
    return list(chosen)
