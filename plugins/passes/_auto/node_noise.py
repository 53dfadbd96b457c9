"""How much noise each node's quantization adds to a model's outputs: one model that can quantize any subset of them.

Building and loading a model for every node to be asked about would take longer than everything else a search does. So
one model is built in which every such node stands twice, in the branches of an ``If``: as it is, and between
quantization and dequantization of what goes into it and comes out of it. A vector of flags, one for each group of
nodes, says at run time which branch is taken. On MiniLM (36 matrix multiplications quantized dynamically) what this
model answers with all flags set has the cosine to the float model that ONNX Runtime's quantized model has, to four
digits, and asking for every node takes as long as three candidates.

Noise adds up: node by node it sums to that of the whole within a few percent, as independent errors do. That is what
lets a search guess how many nodes must stay in float before it has built a single candidate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._measuring import closeness
from .._models import model_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Array = NDArray[Any]

__all__ = ["Quantized", "Rounding", "Simulation", "dynamic_targets", "fake_quantized", "static_targets"]

FLAGS: Final = "ortforge.quantize"
"""Name of the input that says which groups are quantized."""

DATA_INPUT: Final = {"Attention": (0,), "Conv": (0,), "Gemm": (0,), "MatMul": (0,)}
"""Inputs that dynamic quantization rounds while the model runs; of Gather only the weights are rounded."""
WEIGHT_INPUT: Final = {"Attention": 1, "Conv": 1, "Gather": 0, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True)
class Rounding:
    """A scale and a zero point known ahead; ``axis`` where there is one of each per channel.

    :param domain: of the Quantize/DequantizeLinear to use.
    """

    scale: Array
    zero_point: Array
    axis: int
    domain: str


@dataclass(frozen=True)
class Quantized:
    """What quantization does to one node.

    :param weights: input positions whose constant value is another one then.
    :param dynamic: input positions rounded by their own range while the model runs.
    :param static: input positions rounded by a range known ahead; :param outputs: the same of outputs.
    """

    weights: Mapping[int, Array] = field(default_factory=dict)
    dynamic: tuple[int, ...] = ()
    static: Mapping[int, Rounding] = field(default_factory=dict)
    outputs: Mapping[int, Rounding] = field(default_factory=dict)


def fake_quantized(weight: Array, axis: int | None, bits: int = 8) -> Array:
    """Round weights to symmetric integers and back, with one scale for each index of ``axis`` (``None``: one for all).

    The scale is max |w| / (2^(bits-1) - 1), as ONNX Runtime's quantizers take it for signed types.
    """
    import numpy as np

    top = float(2 ** (bits - 1) - 1)
    other = None if axis is None else tuple(place for place in range(weight.ndim) if place != axis % weight.ndim)
    scale = np.max(np.abs(weight), axis=other, keepdims=True).astype(np.float64) / top
    scale = np.where(scale > 0.0, scale, 1.0)
    rounded: Array = (np.clip(np.rint(weight / scale), -top, top) * scale).astype(weight.dtype)
    return rounded


def dynamic_targets(model: ModelProto, names: Collection[str], *, per_channel: bool) -> dict[str, Quantized]:
    """Return what dynamic int8 quantization does to the named nodes of a float model."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        position = WEIGHT_INPUT.get(node.op_type)
        if node.name not in names or position is None or node.input[position] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[position]])
        transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        axis = {"Conv": 0, "Gather": None}.get(node.op_type, 0 if transposed else weight.ndim - 1)
        rounded = fake_quantized(weight, axis if per_channel and weight.ndim > 1 else None)
        found[node.name] = Quantized({position: rounded}, DATA_INPUT.get(node.op_type, ()))
    return found


def static_targets(qdq: ModelProto, op_types: Collection[str]) -> dict[str, Quantized]:
    """Read out of a model in QDQ form what was done to each node of the float model that it came from.

    :param op_types: those that were quantized; others only have them as neighbours.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in qdq.graph.initializer}
    made_by = {name: node for node in qdq.graph.node for name in node.output}
    rounded_by = {node.input[0]: node for node in qdq.graph.node if node.op_type == "QuantizeLinear"}

    def rounding(node: NodeProto) -> Rounding | None:
        if node.input[1] not in constants or len(node.input) < 3 or node.input[2] not in constants:
            return None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        return Rounding(scale, zero, axis, node.domain)

    found = {}
    for node in qdq.graph.node:
        if node.op_type not in op_types:
            continue
        weights: dict[int, Array] = {}
        static: dict[int, Rounding] = {}
        for position, name in enumerate(node.input):
            source = made_by.get(name)
            if source is None or source.op_type != "DequantizeLinear" or (how := rounding(source)) is None:
                continue
            if source.input[0] in constants:
                weights[position] = _dequantized(numpy_helper.to_array(constants[source.input[0]]), how)
            else:
                static[position] = how
        outputs = {
            position: how
            for position, name in enumerate(node.output)
            if name in rounded_by and (how := rounding(rounded_by[name])) is not None
        }
        if node.name and (weights or static or outputs):
            found[node.name] = Quantized(weights, (), static, outputs)
    return found


def _dequantized(values: Array, how: Rounding) -> Array:
    import numpy as np

    shape = [1] * values.ndim
    if how.scale.size > 1:
        axis = how.axis % values.ndim
        if values.shape[axis] != how.scale.size:  # biases of shape [1, N] are given the axis of [N]
            axis = values.shape.index(how.scale.size)
        shape[axis] = -1
        scale, zero = how.scale.reshape(shape), how.zero_point.reshape(shape)
    else:
        scale, zero = how.scale.reshape(()), how.zero_point.reshape(())
    made: Array = ((values.astype(np.float64) - zero.astype(np.float64)) * scale).astype(np.float32)
    return made


class Simulation:
    """The model that can quantize any subset of ``groups``, in a session on the CPU EP of this process.

    :param groups: nodes that are switched together. :param feeds: samples that it is asked on.
    :param ranked_on: how many of them :meth:`noise` uses.
    :raises RuntimeError: ONNX Runtime does not take the model.
    """

    def __init__(
        self,
        model: ModelProto,
        targets: Mapping[str, Quantized],
        groups: Sequence[Sequence[str]],
        feeds: Sequence[Mapping[str, Any]],
        workdir: Path,
        *,
        threads: int = 0,
        ranked_on: int = 6,
    ) -> None:
        import onnxruntime

        self.groups = groups
        self._feeds = feeds
        self._ranked_on = ranked_on
        path = workdir / "simulation.onnx"
        model_file.save(_with_branches(model, targets, groups), path, ir_version=max(model.ir_version, 8))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as problem:
            raise RuntimeError(f"the simulation does not load: {model_file.first_line(problem)}") from problem
        finally:
            path.unlink()
        self._names = [entry.name for entry in self._session.get_outputs()]
        self._float = self._answers((), feeds)

    def noise(self, group: int) -> float:
        """Return the outputs' noise (:mod:`closeness`) with one group quantized and all others in float."""
        few = self._feeds[: self._ranked_on]
        return closeness.compare(self._float[: len(few)], self._answers((group,), few)).noise

    def parity(self, quantized: Iterable[int]) -> closeness.Parity:
        """Compare the outputs with these groups quantized and all others in float with those of the float model."""
        return closeness.compare(self._float, self._answers(quantized, self._feeds))

    def _answers(self, quantized: Iterable[int], feeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        import numpy as np

        flags = np.zeros(max(1, len(self.groups)), np.bool_)
        flags[list(quantized)] = True
        made = [self._session.run(None, {**feed, FLAGS: flags}) for feed in feeds]
        return [dict(zip(self._names, values, strict=True)) for values in made]


def _with_branches(model: ModelProto, targets: Mapping[str, Quantized], groups: Sequence[Sequence[str]]) -> ModelProto:
    """Return a copy of the model in which each target is an ``If`` on its group's flag."""
    import numpy as np
    from onnx import ModelProto as Model
    from onnx import TensorProto, helper, numpy_helper

    made = Model()
    made.CopyFrom(model)
    graph = made.graph
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    nodes = []
    for number in range(len(groups)):
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.int64), f"{FLAGS}.{number}"))
        nodes.append(helper.make_node("Gather", [FLAGS, f"{FLAGS}.{number}"], [f"{FLAGS}.is{number}"]))
    for position, node in enumerate(graph.node):
        if node.name in group_of and node.name in targets:
            nodes.append(_branching(node, targets[node.name], f"{FLAGS}.is{group_of[node.name]}", position, graph))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(FLAGS, TensorProto.BOOL, [max(1, len(groups))]))
    return made


def _branching(node: NodeProto, how: Quantized, flag: str, number: int, graph: Any) -> NodeProto:
    from onnx import NodeProto as Node
    from onnx import helper, numpy_helper

    def constant(value: Array, what: str) -> str:
        name = f"{FLAGS}.{number}.{what}"
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def through(source: str, target: str, rounding: Rounding, what: str) -> list[NodeProto]:
        """Round ``source`` and dequantize it again into ``target``."""
        parameters = [constant(rounding.scale, f"{what}.scale"), constant(rounding.zero_point, f"{what}.zero")]
        axis: dict[str, Any] = {"axis": rounding.axis} if rounding.scale.size > 1 else {}
        between = f"{FLAGS}.{number}.{what}.q"
        return [
            helper.make_node("QuantizeLinear", [source, *parameters], [between], domain=rounding.domain, **axis),
            helper.make_node("DequantizeLinear", [between, *parameters], [target], domain=rounding.domain, **axis),
        ]

    before: list[NodeProto] = []
    after: list[NodeProto] = []
    inside = Node()
    inside.CopyFrom(node)
    for position, value in how.weights.items():
        inside.input[position] = constant(value, f"weight{position}")
    for position in how.dynamic:
        prefix = f"{FLAGS}.{number}.in{position}"
        parts = [f"{prefix}.q", f"{prefix}.scale", f"{prefix}.zero"]
        before.append(helper.make_node("DynamicQuantizeLinear", [node.input[position]], parts))
        before.append(helper.make_node("DequantizeLinear", parts, [prefix]))
        inside.input[position] = prefix
    for position, rounding in how.static.items():
        target = f"{FLAGS}.{number}.in{position}"
        before += through(node.input[position], target, rounding, f"in{position}")
        inside.input[position] = target
    outputs = []
    for position, name in enumerate(node.output):
        raw = f"{FLAGS}.{number}.out{position}"
        inside.output[position] = raw if name else ""
        if name and position in how.outputs:
            after += through(raw, f"{raw}.rounded", how.outputs[position], f"out{position}")
            outputs.append(f"{raw}.rounded")
        elif name:
            outputs.append(raw)
    plain = Node()
    plain.CopyFrom(node)
    for position, name in enumerate(node.output):
        plain.output[position] = f"{FLAGS}.{number}.float{position}" if name else ""
    branches = {
        "then_branch": _branch([*before, inside, *after], outputs, "quantized"),
        "else_branch": _branch([plain], [name for name in plain.output if name], "float"),
    }
    return helper.make_node(
        "If", [flag], [name for name in node.output if name], name=f"{node.name}.either", **branches
    )


def _branch(nodes: Sequence[NodeProto], outputs: Sequence[str], name: str) -> Any:
    from onnx import helper

    graph = helper.make_graph(list(nodes), name, [], [])
    for output in outputs:
        graph.output.add(name=output)  # ONNX Runtime infers the types
    return graph
