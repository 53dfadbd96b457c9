"""Ranges that would ruin a statically quantized model, found before it is made, with the nodes to leave out.

A mask's "minus infinity" is the usual cause: added to attention scores and taken for data, it stretches the range until
every score falls onto one step.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .._models import onnx_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from .calibration import Range

__all__ = ["AbsurdRange", "absurd_ranges", "sentence"]

ABSURD_STEP: Final = 1e10
"""From here on every ordinary value of a tensor becomes zero."""

COARSE_LOGIT: Final = 1.0
"""A step between two logits from which on Softmax only sees winners: e to the power of one step is the least ratio of
two probabilities that can still be told."""

OPAQUE: Final = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast"})
"""Operators that move values and leave them as they are."""


@dataclass(frozen=True)
class AbsurdRange:
    """A tensor that must not be quantized with the range that calibration found.

    :param nodes: those that touch it and would be quantized. :param why: what is wrong, as a clause.
    """

    tensor: str
    lowest: float
    highest: float
    why: str
    nodes: tuple[str, ...]


def absurd_ranges(
    model: ModelProto, ranges: Mapping[str, Range], chosen: Collection[str], *, levels: int, masks: Sequence[str]
) -> list[AbsurdRange]:
    """Return the tensors whose ranges ruin what is quantized, in the order of the graph.

    :param chosen: names of the nodes that would be quantized; a range that touches none of them does no harm.
    :param levels: steps of the activation type: 255 for 8 bits.
    :param masks: constants of "minus infinity", which quantizers take for weights.
    """
    touching = defaultdict[str, list[str]](list)
    for node in model.graph.node:
        if node.name in chosen:
            for name in {*node.input, *node.output}:
                touching[name].append(node.name)
    logits = _logits(model.graph.node)
    found = []
    for name, span in ranges.items():
        if touching[name] and (why := _why(span, levels, is_logit=name in logits)):
            found.append(AbsurdRange(name, span.lowest, span.highest, why, tuple(touching[name])))
    named = {one.tensor for one in found}
    for name in masks:
        if touching[name] and name not in named:
            limit = -onnx_graph.MASK_MAGNITUDE
            found.append(AbsurdRange(name, limit, 0.0, "a mask's constant of minus infinity", tuple(touching[name])))
    return found


def _why(span: Range, levels: int, *, is_logit: bool) -> str:
    if not (math.isfinite(span.lowest) and math.isfinite(span.highest)):
        return "it is not finite"
    step = (max(span.highest, 0.0) - min(span.lowest, 0.0)) / levels
    if step > ABSURD_STEP:
        return f"one step is {step:.2g}, so every ordinary value becomes zero"
    if is_logit and step > COARSE_LOGIT:
        return f"one step is {step:.2g}, and Softmax needs steps below 1"
    return ""


def _logits(nodes: Iterable[NodeProto]) -> set[str]:
    """Return the tensors that a Softmax reads, also through operators that only move values."""
    makers = {name: node for node in nodes for name in node.output}
    found: set[str] = set()
    for node in list(makers.values()):
        if node.op_type in ("Softmax", "LogSoftmax"):
            name = node.input[0]
            found.add(name)
            while name in makers and makers[name].op_type in OPAQUE:
                name = makers[name].input[0]
                found.add(name)
    return found


def sentence(found: Sequence[AbsurdRange], masks: Sequence[str], *, fixed: bool) -> str:
    """Say which ranges are absurd, why, and what is or can be done about it; at most four tensors are described."""
    listed = "; ".join(f"{one.tensor} ({one.lowest:.3g} to {one.highest:.3g}: {one.why})" for one in found[:4])
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    cause = f" The model holds mask constants of about -3.4e38 ({', '.join(masks[:4])})." if masks else ""
    nodes = list(dict.fromkeys(name for one in found for name in one.nodes))
    if fixed:
        return f"Left out {len(nodes)} nodes whose ranges would ruin the model: {listed}{more}.{cause}"
    return (
        f"RUINED RANGES: {listed}{more}.{cause} Set fix = true, which leaves out the {len(nodes)} nodes that touch "
        "them, or name them in nodes_to_exclude."
    )
