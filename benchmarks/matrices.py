"""Matrices of any size for the benchmarks, on a small real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["grid", "small_model"]


def small_model(path: Path, *, width: int = 64, layers: int = 6, seed: int = 0) -> Path:
    """Write a multi-layer perceptron (MatMul, Add, Relu) with random weights; input ``x`` is (batch, width)."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for layer in range(layers):
        for name, shape in ((f"w{layer}", (width, width)), (f"b{layer}", (width,))):
            values = (rng.standard_normal(shape) / np.sqrt(width)).astype(np.float32)
            weights.append(numpy_helper.from_array(values, name))
        out = "y" if layer == layers - 1 else f"r{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"], name=f"matmul{layer}"))
        nodes.append(helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"]))
        nodes.append(helper.make_node("Relu", [f"a{layer}"], [out]))
        last = out
    shape = ["batch", width]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def _chosen(number: int) -> str:
    """Return which layers recipe ``number`` (less than 32) leaves alone: those of its binary digits."""
    names = [f'"matmul{layer}"' for layer in range(5) if number >> layer & 1]
    return f"[{', '.join(names)}]"


def grid(folder: Path, *, models: int, recipes: int, targets: int, timing_s: float = 0.3, rounds: int = 1) -> Path:
    """Write a matrix of ``models`` by ``recipes`` by ``targets`` cells and its models; return the file.

    Each target is the same package with another session option, each recipe another exclusion of dynamic int8,
    so all cells are real and cheap. ``recipes`` counts the built-in "none".
    """
    lines = [f"[limits]\ntiming_s = {timing_s}\nrounds = {rounds}\nsamples = 4\n"]
    for number in range(models):
        small_model(folder / f"m{number}.onnx", seed=number)
        lines.append(f'[models.m{number}]\npath = "path:m{number}.onnx"\nvalidation = "random:"\n')
    for number in range(targets):
        threads = number + 1
        lines.append(
            f'[targets.t{number}]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\n'
            f'session = {{ config = {{ "session.dynamic_block_base" = "{threads}" }} }}\n'
        )
    lines.extend(
        f'[recipes.r{number}]\npasses = [{{ use = "quantize-dynamic", nodes_to_exclude = {_chosen(number)} }}]\n'
        for number in range(1, recipes)
    )
    lines.append('[[matrix]]\ntargets = ["*"]\nmodels = ["*"]\nrecipes = ["*"]\n')
    path = folder / "matrix.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
