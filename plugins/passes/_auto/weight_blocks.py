"""Weights of matrix multiplications in blocks of few bits each, as a search tries them: com.microsoft's MatMulNBits.

Rounding and layout are those of the pass ``quantize-weights``; which node has what is the search's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from .._blocks import block_nodes, rounding
from .._models import onnx_graph
from .node_noise import Quantized

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[Any]

__all__ = ["rounded", "targets", "to_blocks"]

ACCURACY_LEVEL: Final = 4
"""The operator may round the activations of a block to 8 bits; kernels that do so are the quick ones."""


def _in_blocks(matrix: Array, bits: int, block: int) -> rounding.Blocks:
    """Round [N, K] with the middle code as zero: every version's kernels take that."""
    return rounding.round_blocks(matrix, bits=bits, block=block, method="default", symmetric=True)


def rounded(weight: Array, bits: int, block: int) -> Array:
    """Return the weight [K, N] as :func:`to_blocks` holds it."""
    import numpy as np

    found: Array = np.ascontiguousarray(_in_blocks(weight.T, bits, block).values().T)
    return found


def _able(model: ModelProto) -> dict[str, block_nodes.Target]:
    """Return the MatMul nodes of the main graph whose second factor is a constant float matrix, by what they make."""
    main = {node.output[0] for node in model.graph.node if node.output}
    found = {target.node.output[0]: target for target in block_nodes.targets(model, ["MatMul"])}
    return {output: target for output, target in found.items() if output in main}


def targets(model: ModelProto, *, bits: int, block: int) -> dict[str, Quantized]:
    """Return what :func:`to_blocks` does to each node, by name, as far as its weight goes."""
    return {
        target.node.name: Quantized({1: _in_blocks(target.matrix, bits, block).values().T})
        for target in _able(model).values()
    }


def to_blocks(model: ModelProto, names: Collection[str], *, bits: int, block: int) -> list[str]:
    """Turn the named MatMul nodes of a model into MatMulNBits, in place; return those that could be.

    Nodes that share a weight share its codes.
    """
    able = {output: target for output, target in _able(model).items() if target.node.name in names}
    made: dict[str, rounding.Blocks] = {}
    nodes, changed = [], []
    for node in model.graph.node:
        target = able.get(node.output[0]) if node.output else None
        if target is None:
            nodes.append(node)
            continue
        weight = target.weight.name
        first = weight not in made
        if first:
            made[weight] = _in_blocks(target.matrix, bits, block)
        product, constants = block_nodes.product(target, made[weight], f"{weight}.blocks", ACCURACY_LEVEL)
        if first:
            model.graph.initializer.extend(constants)
        nodes.append(product)
        changed.append(node.name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    block_nodes.drop_unread(model)
    onnx_graph.fit_imports(model)
    return changed
