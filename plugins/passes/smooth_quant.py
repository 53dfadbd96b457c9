"""``smooth-quant``: outliers of activations moved into the weights behind them, so that both fit into 8 bits.

SmoothQuant (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
ICML 2023, arXiv 2211.10438, equation 4): a product X W is the same as (X / s) (s W), for any positive s per input
channel j. With s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) the outliers of some channels of X, which stretch the one
range that all of X has, go into W, whose ranges have room. Products that read the same X share s.

The division is folded into the LayerNormalization or Mul before, where nobody else reads its output, and is a Mul of
its own otherwise. The model computes the same as before, up to rounding: it is for a static quantization that comes
after.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._models import loading, model_file, onnx_graph
from ._quantization import calibration, quantizing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

    from ortforge.api import Pass, PassJob, PassUse

    Floats = NDArray[np.float64]

LEAST: Final = 1e-5
"""Least magnitude that a channel is taken to have: a channel that is always zero needs no scale."""


@dataclass(frozen=True)
class Parameters:
    """What ``smooth-quant`` can be told."""

    alpha: float = field(
        default=0.5, metadata={"doc": "how much of the difficulty moves into the weights: 0 nothing, 1 all of it"}
    )
    folding: bool = field(
        default=True, metadata={"doc": "fold the scales into the operator before where that is possible"}
    )
    nodes_to_exclude: tuple[str, ...] = field(
        default=(), metadata={"doc": "products that are left as they are, by name or glob"}
    )
    nodes_to_include: tuple[str, ...] = field(
        default=(), metadata={"doc": "the only products to smooth, by name or glob; empty: all"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="smooth-quant",
            summary="outliers of activations moved into weights, before a static quantization",
            parameters=Parameters,
            module=__file__,
            kind="prepare",
            needs_calibration=True,
            objection=_objection,
            example={"alpha": 0.5},
        )
    ]


def _objection(use: PassUse) -> str:
    if not use.has_calibration:
        return "it needs calibration data; give the model a calibration dataset"
    if not 0 <= use.parameters.alpha <= 1:
        return f"alpha is {use.parameters.alpha:g}; it is a share, from 0 to 1"
    return ""


@dataclass(frozen=True)
class _Group:
    """Products that read one activation. :param axes: the axis of each weight that runs along the input channels."""

    activation: str
    products: tuple[NodeProto, ...]
    axes: tuple[int, ...]


def apply(job: PassJob) -> dict[str, Any]:
    """Smooth ``job.model`` into ``job.output``.

    :raises ValueError: no calibration data, data that does not fit, a quantized model, or a name that it lacks.
    :raises RuntimeError: the model does not run on a sample, or the result does not load.
    """
    wanted = Parameters(**job.parameters)
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    if not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    prepared = quantizing.prepare(
        source,
        workdir,
        constants=True,
        least_opset=1,
        why="SmoothQuant",
        named={"nodes_to_exclude": wanted.nodes_to_exclude, "nodes_to_include": wanted.nodes_to_include},
        op_types=(),
        takes=(),
        written=False,
    )
    model = prepared.model
    if reason := quantizing.why_classical(model):
        return quantizing.unchanged(source, output, reason)
    groups = _groups(model, prepared.names["nodes_to_include"], prepared.names["nodes_to_exclude"])
    if not groups:
        return quantizing.unchanged(
            source, output, "NO-OP: nothing to smooth; the model has no MatMul or Gemm of an activation and a weight."
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name for value in model.graph.input} - weights
    reader = calibration.SampleReader(job.feeds, len(job.samples), inputs)
    largest = _channel_maxima(model, groups, reader, workdir / "observed.onnx")
    groups, left = _sound(model, groups, largest)
    said = [_of_left(left)] if left else []
    if not groups:
        return quantizing.unchanged(source, output, f"NO-OP: nothing was smoothed. {said[0]}")
    folded, inserted, before, after = _smooth(model, groups, largest, wanted)
    model_file.save(model, output, ir_version=prepared.ir_version)
    if problem := loading.load_error(output, job, kernels=False):
        raise RuntimeError(f"The smoothed model does not load: {problem} Leave this pass out for this model.")
    return {
        "products": sum(len(group.products) for group in groups),
        "folded": folded,
        "multiplications_added": inserted,
        "outliers_before": round(before, 2),
        "outliers_after": round(after, 2),
        "calibration_samples": len(job.samples),
        "bytes_before": model_file.size(source),
        "bytes_after": model_file.size(output),
        "warnings": said,
    }


def _sound(model: ModelProto, groups: list[_Group], largest: dict[str, Floats]) -> tuple[list[_Group], list[str]]:
    """Return the groups whose activation has a finite magnitude for each input channel; and the other activations."""
    import numpy as np

    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}

    def fits(group: _Group) -> bool:
        seen = largest.get(group.activation)
        if seen is None or not np.isfinite(seen).all():
            return False
        pairs = zip(group.products, group.axes, strict=True)
        return all(dims[node.input[1]][axis] == seen.size for node, axis in pairs)

    kept = [group for group in groups if fits(group)]
    return kept, [group.activation for group in groups if group not in kept]


def _of_left(activations: list[str]) -> str:
    more = f" and {len(activations) - 4} more" if len(activations) > 4 else ""
    return (
        f"Left as they are: the products that read {', '.join(activations[:4])}{more}, which had no values, infinite "
        "ones or NaN on the calibration samples. Look at the samples if those are not a mask's."
    )


def _groups(model: ModelProto, include: Iterable[str], exclude: Iterable[str]) -> list[_Group]:
    """Find the products of an activation and a constant float matrix, by activation, in the order of the graph."""
    from onnx import TensorProto

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted, left = set(include), set(exclude)
    readers = _readers(model)
    found = defaultdict[str, list[tuple["NodeProto", int]]](list)
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in onnx_graph.DEFAULT_DOMAINS:
            continue
        if node.name in left or (wanted and node.name not in wanted) or node.input[0] in weights:
            continue
        weight = weights.get(node.input[1])
        if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
            continue
        # A weight with other readers would change for them, too.
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        if readers[weight.name] == 1 and not flags.get("transA"):
            found[node.input[0]].append((node, 1 if flags.get("transB") else 0))
    return [
        _Group(name, tuple(node for node, _ in pairs), tuple(axis for _, axis in pairs))
        for name, pairs in found.items()
    ]


def _readers(model: ModelProto) -> dict[str, int]:
    """Count who reads each tensor, at any depth; outputs of the graph are read from outside."""
    count = defaultdict[str, int](int)
    for node in onnx_graph.nodes(model):
        for name in node.input:
            count[name] += 1
    for graph in onnx_graph.graphs(model):
        for value in graph.output:
            count[value.name] += 1
    return count


def _channel_maxima(
    model: ModelProto, groups: list[_Group], reader: calibration.SampleReader, scratch: Path
) -> dict[str, Floats]:
    """Return max|X_j| over all samples for each group's activation, one sample at a time."""
    import numpy as np
    import onnxruntime

    outputs = model.graph.output
    count, known = len(outputs), {value.name for value in outputs}
    names = [group.activation for group in groups]
    for name in names:
        if name not in known:
            outputs.add(name=name)
    try:
        model_file.save(model, scratch, ir_version=model.ir_version)
    finally:
        del outputs[count:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    largest: dict[str, Floats] = {}
    try:
        session = onnxruntime.InferenceSession(str(scratch), options, providers=["CPUExecutionProvider"])
        for feed in reader:
            for name, values in zip(names, session.run(names, feed), strict=True):
                if not values.size:
                    continue
                found = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0).astype(np.float64)
                largest[name] = np.maximum(largest[name], found) if name in largest else found
    except ValueError:
        raise
    except Exception as problem:
        raise RuntimeError(
            f"The model, with the inputs of its products put out, does not run on calibration sample {reader.read} of "
            f"{len(reader)}: {model_file.first_sentence(problem)} If the model runs without this pass, the data are "
            "not at fault; otherwise check that they have the shapes and types of the model's inputs."
        ) from problem
    return largest


def _smooth(
    model: ModelProto, groups: list[_Group], largest: dict[str, Floats], wanted: Parameters
) -> tuple[dict[str, int], int, float, float]:
    """Scale weights and activations in place.

    Returns what the scales were folded into, how many Mul were added, and the mean over groups of the largest channel
    as a multiple of the median channel, before and after.
    """
    import numpy as np
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    folding = _Folding(model, weights) if wanted.folding else None
    folded = defaultdict[str, int](int)
    added: dict[str, tuple[_Group, Floats]] = {}
    before, after = [], []
    for group in groups:
        seen = largest[group.activation]
        arrays = [numpy_helper.to_array(weights[node.input[1]]).astype(np.float64) for node in group.products]
        rows = [np.abs(array).max(axis=1 - axis) for array, axis in zip(arrays, group.axes, strict=True)]
        scale = _scales(seen, np.max(rows, axis=0), wanted.alpha)
        before.append(_outlying(seen))
        after.append(_outlying(seen / scale))
        for node, array, axis in zip(group.products, arrays, group.axes, strict=True):
            shaped = scale.reshape((-1, 1) if axis == 0 else (1, -1))
            _replace(weights[node.input[1]], array * shaped)
        where = folding.fold(group, scale) if folding else ""
        if where:
            folded[where] += 1
        else:
            added[group.activation] = (group, scale)
    _insert(model, added)
    return dict(sorted(folded.items())), len(added), _mean(before), _mean(after)


def _scales(activation: Floats, weight: Floats, alpha: float) -> Floats:
    """Return s of the paper's equation 4 for each input channel; 1 where the channel or its weights are always zero."""
    import numpy as np

    silent = (activation < LEAST) | (weight < LEAST)
    scale = np.maximum(activation, LEAST) ** alpha / np.maximum(weight, LEAST) ** (1 - alpha)
    bounded: Floats = np.where(silent, 1.0, np.clip(scale, LEAST, 1 / LEAST))
    return bounded


def _outlying(channels: Floats) -> float:
    import numpy as np

    return float(channels.max() / max(float(np.median(channels)), LEAST))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _replace(tensor: TensorProto, array: Floats) -> None:
    import numpy as np
    from onnx import numpy_helper

    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


class _Folding:
    """Finds the operators that make activations, and divides their constants by the scales where that is the same."""

    def __init__(self, model: ModelProto, weights: dict[str, TensorProto]) -> None:
        self._model = model
        self._weights = weights
        self._readers = _readers(model)
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def fold(self, group: _Group, scale: Floats) -> str:
        """Divide ``group.activation`` by ``scale`` inside its maker; return the maker's operator, or ``""``."""
        maker = self._makers.get(group.activation)
        # All who read it must be the group's products: others would see it divided, too.
        if maker is None or self._readers[group.activation] != len(group.products):
            return ""
        if maker.op_type == "LayerNormalization" and maker.domain in onnx_graph.DEFAULT_DOMAINS:
            constants = [name for name in maker.input[1:] if name]
            done = self._is_last_axis(maker) and self._divide(constants, scale, maker, grow=False)
        elif maker.op_type == "Mul":
            constants = [name for name in maker.input if name in self._weights][:1]
            done = self._divide(constants, scale, maker, grow=True)
        else:
            done = False
        return maker.op_type if done else ""

    def _is_last_axis(self, node: NodeProto) -> bool:
        return all(attribute.i == -1 for attribute in node.attribute if attribute.name == "axis")

    def _divide(self, names: list[str], scale: Floats, node: NodeProto, *, grow: bool) -> bool:
        """Divide constants by the scales, each in a copy of the node's own if others read it.

        :param grow: a constant of one element becomes one per channel.
        """
        import numpy as np
        from onnx import TensorProto, numpy_helper

        arrays = {}
        for name in names:
            tensor = self._weights.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT:
                return False
            array = numpy_helper.to_array(tensor).astype(np.float64)
            if array.size == 1 and grow and array.ndim <= 1:
                array = np.full(scale.shape, float(array.ravel()[0]))
            if array.ndim == 0 or array.shape[-1] != scale.size:
                return False
            arrays[name] = array / scale
        for position, name in enumerate(node.input):
            if name not in arrays:
                continue
            if self._readers[name] > 1:
                self._readers[name] -= 1
                fresh = f"{name}_smoothed_{node.output[0]}"
                self._model.graph.initializer.add(name=fresh)
                self._weights[fresh] = self._model.graph.initializer[-1]
                self._readers[fresh] = 1
                node.input[position] = fresh
            _replace(self._weights[node.input[position]], arrays[name])
            self._forget_shape(node.input[position])
        return bool(arrays)

    def _forget_shape(self, name: str) -> None:
        """Take away what shape inference noted of a constant: a scalar may have become a vector."""
        noted = self._model.graph.value_info
        for place in range(len(noted) - 1, -1, -1):
            if noted[place].name == name:
                del noted[place]


def _insert(model: ModelProto, added: dict[str, tuple[_Group, Floats]]) -> None:
    """Put one Mul by 1/s between an activation and the products that read it."""
    import numpy as np
    from onnx import helper, numpy_helper

    first = {group.products[0].output[0]: (name, group, scale) for name, (group, scale) in added.items()}
    kept = []
    for node in model.graph.node:
        if node.output and node.output[0] in first:
            name, group, scale = first[node.output[0]]
            factor, smoothed = f"{name}_smooth_factor", f"{name}_smoothed"
            model.graph.initializer.append(numpy_helper.from_array((1 / scale).astype(np.float32), factor))
            kept.append(helper.make_node("Mul", [name, factor], [smoothed], name=f"{name}_smooth_Mul"))
        kept.append(node)
    for group, _ in added.values():
        for product in group.products:
            product.input[0] = f"{group.activation}_smoothed"
    # The list holds the graph's own nodes; they are copied before the graph lets go of them.
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)
