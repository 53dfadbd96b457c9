"""Weights of matrix multiplications in blocks of few bits each: com.microsoft's MatMulNBits, written without a library.

The layout is the operator's (ONNX Runtime, docs/ContribOperators.md): B is [N, K / block, block * bits / 8] of uint8,
the lower half of a byte first; scales are [N * K / block]; the zero point is 2^(bits-1) unless one is given.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from .._models import onnx_graph
from .node_noise import Quantized

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    Array = NDArray[Any]

__all__ = ["packed", "rounded", "targets", "to_blocks"]

ACCURACY_LEVEL: Final = 4
"""The operator may round the activations of a block to 8 bits; kernels that do so are the quick ones."""


def packed(weight: Array, bits: int, block: int) -> tuple[Array, Array]:
    """Return (B, scales) of a weight [K, N] in symmetric blocks along K; K is filled up with zeros."""
    import numpy as np

    depth, width = weight.shape
    blocks = -(-depth // block)
    padded = np.zeros((blocks * block, width), np.float32)
    padded[:depth] = weight
    table = padded.T.reshape(width, blocks, block)
    top = float(2 ** (bits - 1) - 1)
    scales = np.abs(table).max(axis=2) / top
    levels = np.rint(table / np.where(scales > 0.0, scales, 1.0)[:, :, None]) + 2 ** (bits - 1)
    codes = np.clip(levels, 0, 2**bits - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[:, :, 0::2] | (codes[:, :, 1::2] << 4)
    return np.ascontiguousarray(codes), scales.astype(np.float32).reshape(-1)


def rounded(weight: Array, bits: int, block: int) -> Array:
    """Return the weight [K, N] as :func:`packed` holds it."""
    import numpy as np

    depth, width = weight.shape
    codes, scales = packed(weight, bits, block)
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=3).reshape(width, -1, block)
    table = (codes.astype(np.float32) - 2 ** (bits - 1)) * scales.reshape(width, -1, 1)
    found: Array = np.ascontiguousarray(table.reshape(width, -1)[:, :depth].T)
    return found


def _candidates(model: ModelProto) -> dict[str, Any]:
    """Return the MatMul nodes of the main graph whose second factor is a constant float matrix."""
    from onnx import TensorProto

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.name: weights[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and len(weights[node.input[1]].dims) == 2
        and weights[node.input[1]].data_type == TensorProto.FLOAT
    }


def targets(model: ModelProto, *, bits: int, block: int) -> dict[str, Quantized]:
    """Return what :func:`to_blocks` does to each node, as far as its weight goes."""
    from onnx import numpy_helper

    return {
        name: Quantized({1: rounded(numpy_helper.to_array(tensor), bits, block)})
        for name, tensor in _candidates(model).items()
    }


def to_blocks(model: ModelProto, names: Collection[str], *, bits: int, block: int) -> list[str]:
    """Turn the named MatMul nodes of a model into MatMulNBits, in place; return those that could be."""
    from onnx import helper, numpy_helper

    able = _candidates(model)
    changed = []
    nodes = []
    for node in model.graph.node:
        if node.name not in names or node.name not in able:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(able[node.name])
        codes, scales = packed(weight, bits, block)
        inputs = [node.input[0], f"{node.name}.codes", f"{node.name}.scales"]
        model.graph.initializer.append(numpy_helper.from_array(codes, inputs[1]))
        model.graph.initializer.append(numpy_helper.from_array(scales, inputs[2]))
        shape: dict[str, Any] = {"K": weight.shape[0], "N": weight.shape[1]}
        how: dict[str, Any] = {"bits": bits, "block_size": block, "accuracy_level": ACCURACY_LEVEL}
        nodes.append(
            helper.make_node(
                "MatMulNBits", inputs, list(node.output), name=node.name, domain="com.microsoft", **shape, **how
            )
        )
        changed.append(node.name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in onnx_graph.nodes(model) for name in node.input} | {
        value.name for value in model.graph.output
    }
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx_graph.fit_imports(model)
    return changed
