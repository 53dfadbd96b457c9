"""Outliers of activations moved into the weights, so that eight bits are enough for both.

A few channels of a transformer's activations are tens of times larger than all others, and one scale for the whole
tensor leaves those others two or three bits. Dividing channel j by s_j before a matrix multiplication and multiplying
row j of its weight by s_j changes nothing in float (Xiao et al. 2022, SmoothQuant, eq. 3 and 4):

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)

The paper has one alpha for a model. Here each activation gets the alpha that leaves the least error in the products it
goes into, or none where it is best left alone: trying them costs a few multiplications on a few samples.

A channel that was quiet on the calibration samples may not be quiet on others, and a division by its small s_j would
then make it the largest of all. So no channel counts as quieter than the median of all channels. Measured on MiniLM
with dynamic int8, 96 sentences that were not calibrated on: worst cosine 0.9906 without that floor, 0.9964 with it.

Where few channels are still far larger than all others, they can be multiplied by themselves in float and added
(Dettmers et al. 2022, LLM.int8(), with the channels chosen ahead): of 1,536 channels eight cost nearly nothing. In
MiniLM that leaves a seventh of the error that smoothing alone leaves in the noisiest multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._models import model_file, onnx_graph
from .node_noise import fake_quantized

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[Any]

__all__ = ["ALPHAS", "OUTLIERS", "Observed", "observe", "smoothed"]

ALPHAS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Exponents tried; 0.5 shares the difficulty evenly, the paper's choice for moderate outliers."""

WORTH: Final = 0.9
"""An activation is smoothed when that leaves at most this share of the error: the division is not free."""

WORTH_SPLITTING: Final = 0.5
"""Outliers go another way where that leaves at most this share of what the division leaves: it costs three nodes."""

OUTLIER_CHANNELS: Final = 8

OUTLIERS: Final = ".outliers"
"""End of the names of nodes that multiply outliers, in float."""

SAMPLES_TRIED: Final = 4
ROWS_TRIED: Final = 256
"""Rows of activations that alphas are tried on; the ranges themselves come from all samples."""


@dataclass(frozen=True)
class Observed:
    """What activations look like that go into a MatMul with a constant weight, by their names.

    :param peaks: largest magnitude of each channel over all samples. :param rows: some rows of some samples.
    """

    peaks: Mapping[str, Array]
    rows: Mapping[str, Array]


@dataclass(frozen=True)
class Move:
    """What is done to one activation: divided by ``scale``, and the channels of ``outliers`` go another way.

    :param share: of the error of the products that is left.
    """

    alpha: float
    scale: Array
    outliers: tuple[int, ...]
    share: float


def observe(model: ModelProto, feeds: Sequence[Mapping[str, Any]], workdir: Path) -> Observed:
    """Run the float model on the samples and look at its activations.

    :raises RuntimeError: ONNX Runtime does not run the model on a sample.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return Observed(*_activations(model, list(_readers(model, weights)), feeds, workdir))


def smoothed(model: ModelProto, observed: Observed, *, split: bool) -> tuple[ModelProto, list[dict[str, Any]]]:
    """Return the model with a division before each MatMul that gains by it, and what was done to each activation.

    :param split: multiply the worst channels in float where that halves the error once more. Their nodes are called
        like the MatMul, with :data:`OUTLIERS` behind: quantizers must leave them alone.
    """
    import numpy as np
    from onnx import ModelProto as Model
    from onnx import TensorProto, helper, numpy_helper

    made = Model()
    made.CopyFrom(model)
    weights = {tensor.name: tensor for tensor in made.graph.initializer}
    told: list[dict[str, Any]] = []
    before: dict[str, list[NodeProto]] = {}
    after: dict[str, list[NodeProto]] = {}

    def constant(name: str, value: Array) -> str:
        made.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    for name, nodes in _readers(made, weights).items():
        if name not in observed.rows:
            continue
        factors = [numpy_helper.to_array(weights[node.input[1]]) for node in nodes]
        move = _best(observed.peaks[name], observed.rows[name], np.concatenate(factors, axis=1), split)
        if move.share >= 1.0:
            continue
        told.append(
            {
                "tensor": name,
                "alpha": move.alpha,
                "outliers": len(move.outliers),
                "error_share": round(move.share, 4),
                "nodes": [node.name for node in nodes],
            }
        )
        worst = np.array(move.outliers, np.int64)
        inverse = (1.0 / move.scale).astype(np.float32)
        inverse[worst] = 0.0
        divide = [name, constant(f"{name}.smooth", inverse)]
        before[nodes[0].name] = [helper.make_node("Mul", divide, [f"{name}.smoothed"], name=f"{nodes[0].name}.smooth")]
        if move.outliers:
            take = [name, constant(f"{name}.worst", worst)]
            before[nodes[0].name].append(
                helper.make_node("Gather", take, [f"{name}.outliers"], name=f"{nodes[0].name}.take{OUTLIERS}", axis=-1)
            )
        for node, factor in zip(nodes, factors, strict=True):
            scaled = (factor * move.scale[:, None]).astype(np.float32)
            scaled[worst] = 0.0
            node.input[0] = f"{name}.smoothed"
            node.input[1] = constant(f"{node.name}.smoothed", scaled)  # the weight may have other readers
            if move.outliers:
                after[node.name] = _sum_with_outliers(node, f"{name}.outliers", constant, factor[worst])
    # Quantizers leave a tensor alone whose type they do not know.
    for node in (node for added in (*before.values(), *after.values()) for node in added):
        made.graph.value_info.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output
        )
    _insert(made, before, after)
    _drop_unread(made)
    return made, told


def _sum_with_outliers(
    node: NodeProto, taken: str, constant: Callable[[str, Array], str], factor: Array
) -> list[NodeProto]:
    """Let a node put out only its own part; return the nodes that add that of the outliers."""
    from onnx import helper

    output, own, others = node.output[0], f"{node.output[0]}.own", f"{node.output[0]}.others"
    node.output[0] = own
    weight = constant(f"{node.name}.outliers", factor.copy())
    return [
        helper.make_node("MatMul", [taken, weight], [others], name=f"{node.name}{OUTLIERS}"),
        helper.make_node("Add", [own, others], [output], name=f"{node.name}.sum"),
    ]


def _readers(model: ModelProto, weights: Mapping[str, Any]) -> dict[str, list[NodeProto]]:
    """Return the MatMul nodes with a constant float matrix, by the activation that they read."""
    from onnx import TensorProto

    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[0] not in weights:
            weight = weights[node.input[1]]
            if weight.data_type == TensorProto.FLOAT and len(weight.dims) == 2:
                found.setdefault(node.input[0], []).append(node)
    return {
        name: nodes
        for name, nodes in found.items()
        if len({weights[node.input[1]].dims[0] for node in nodes}) == 1
    }  # fmt: skip


def _activations(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Any]], workdir: Path
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return each tensor's largest magnitude per channel over all samples, and some of its rows."""
    import numpy as np
    import onnxruntime

    if not names:
        return {}, {}
    count = len(model.graph.output)
    outputs = {value.name for value in model.graph.output}
    for name in names:
        if name not in outputs and not any(name == value.name for value in model.graph.input):
            model.graph.output.add(name=name)
    asked = [value.name for value in model.graph.output if value.name in set(names)]
    path = workdir / "observed.onnx"
    model_file.save(model, path, ir_version=max(model.ir_version, 8))
    del model.graph.output[count:]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    peaks: dict[str, Array] = {}
    rows: dict[str, list[Array]] = {}
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for number, feed in enumerate(feeds):
            seen = dict(zip(asked, session.run(asked, dict(feed)) if asked else (), strict=True))
            seen |= {name: feed[name] for name in names if name in feed}
            for name, value in seen.items():
                table = value.reshape(-1, value.shape[-1])
                peak = np.abs(table).max(axis=0)
                peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
                if number < SAMPLES_TRIED:
                    step = max(1, len(table) * SAMPLES_TRIED // ROWS_TRIED)
                    rows.setdefault(name, []).append(table[::step].copy())
    except Exception as problem:
        raise RuntimeError(f"the activations cannot be observed: {model_file.first_line(problem)}") from problem
    finally:
        path.unlink()
    # The lower half counts as the median does (see the top of this file).
    floored = {name: np.maximum(peak, np.median(peak)) for name, peak in peaks.items()}
    return floored, {name: np.concatenate(parts) for name, parts in rows.items()}


def _best(peak: Array, rows: Array, weight: Array, split: bool) -> Move:
    """Return the division, and with ``split`` the outliers, that leave the least error in the product."""
    import numpy as np

    exact = rows @ weight
    plain = _error(rows, weight, exact) or 1e-30
    strength = np.maximum(np.abs(weight).max(axis=1), 1e-5)
    none = np.ones(len(peak), np.float32)
    scales = {0.0: none}
    scales |= {alpha: _scale(peak, strength, alpha) for alpha in ALPHAS}
    whole = [
        Move(alpha, scale, (), _error(rows / scale, weight * scale[:, None], exact) / plain)
        for alpha, scale in scales.items()
    ]
    best = min(whole, key=lambda move: move.share)
    if best.share > WORTH:
        best = whole[0]
    if split and len(peak) > 4 * OUTLIER_CHANNELS:
        parted = min((_parted(peak, rows, weight, move, exact, plain) for move in whole), key=lambda move: move.share)
        if parted.share <= WORTH_SPLITTING * best.share:
            return parted
    return best


def _scale(peak: Array, strength: Array, alpha: float) -> Array:
    import numpy as np

    scale: Array = (np.maximum(peak, 1e-5) ** alpha / strength ** (1.0 - alpha)).astype(np.float32)
    return scale


def _parted(peak: Array, rows: Array, weight: Array, move: Move, exact: Array, plain: float) -> Move:
    """Return the move with the channels that are still the largest after the division going another way."""
    import numpy as np

    worst = np.sort(np.argsort(peak / move.scale, kind="stable")[-OUTLIER_CHANNELS:])
    left, right = rows / move.scale, weight * move.scale[:, None]
    left[:, worst], right[worst] = 0.0, 0.0
    share = _error(left, right, exact - rows[:, worst] @ weight[worst]) / plain
    return Move(move.alpha, move.scale, tuple(int(place) for place in worst), share)


def _error(rows: Array, weight: Array, exact: Array) -> float:
    """Return the squared error of the product when both factors are rounded as dynamic quantization rounds them."""
    import numpy as np

    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
    step = (high - low) / 255.0 or 1.0
    zero = round(-low / step)
    rounded = (np.clip(np.rint(rows / step) + zero, 0, 255) - zero) * step
    return float(np.sum((rounded.astype(np.float32) @ fake_quantized(weight, 1) - exact) ** 2))


def _insert(
    model: ModelProto, before: Mapping[str, Sequence[NodeProto]], after: Mapping[str, Sequence[NodeProto]]
) -> None:
    """Put nodes before and after others; the first reader of an activation comes first, so the order stays."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += [*before.get(node.name, ()), node, *after.get(node.name, ())]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop_unread(model: ModelProto) -> None:
    """Drop initializers that nothing reads any more."""
    read = {name for node in onnx_graph.nodes(model) for name in node.input}
    read |= {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) != len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
