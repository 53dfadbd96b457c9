"""Changes to a float model that keep ONNX Runtime's quantizer from writing a wrong or unloadable file.

Each change leaves what the model computes as it is. The faults that they work around, and the versions that have them,
are listed in ``quantizer_faults.py``.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from .._models import onnx_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, MutableMapping

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = [
    "Adapter",
    "Mode",
    "batched_products",
    "clipped_pads",
    "lossy_activations",
    "nodes_of_other_domains",
    "products_with_vectors",
    "rename_reserved",
    "tensor_names",
]

Mode = Literal["dynamic", "QDQ", "QOperator"]

RESERVED: Final = re.compile(
    r"quantized$|_(?:quant(?:ized)?(?:_|$|:)|scale(?:_|$|s_)|zero_point|QuantizeLinear|DequantizeLinear|output_quantized"
    r"|output_scale|MatMul(?:_|$)|Add(?:_|$)|cast)"
)
"""What the quantizer appends to names of tensors and nodes (its quant_utils.py, base_quantizer.py and operators/)."""

CONTRIB_OPERATORS: Final = frozenset({"Attention", "EmbedLayerNormalization"})
"""Operators of the quantizer's registries that are com.microsoft's; it looks at the operator's name alone."""

WEIGHT_AXES: Final = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1}
"""Operators whose second input gets a scale for each channel, and the axis of the channels."""

OWN_RANGE: Final = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Conv",
        "Gemm",
        "GlobalAveragePool",
        "LeakyRelu",
        "MatMul",
        "Mul",
        "Sigmoid",
        "Where",
    }
)
"""Operators whose outputs the QOperator format gives a scale of their own; others keep that of their input."""

FORGOTTEN_INPUTS: Final = {("dynamic", "Attention"): 3, ("dynamic", "LSTM"): 4, ("QOperator", "Where"): 1}
"""From which input on the quantizers forget to make a tensor float again (its operators/attention.py, lstm.py and
where.py)."""

FLOAT: Final = "float"
"""Key of uses that are not quantized: they go with any other."""


@dataclass
class Adapter:
    """Adapts one model to the quantizer, in place.

    :param weights: the bytes of weights whose initializers are without data (``outlines.py``), by name.
    :param op_types: operators that will be quantized; :param excluded: names of nodes that will not be.
    :param included: the only nodes that will be; empty: all.
    :param copies: for each weight that was copied, the names of the copies; set by :meth:`separate_shared_weights`.
    """

    model: ModelProto
    weights: MutableMapping[str, Any]
    mode: Mode
    per_channel: bool
    op_types: Collection[str]
    excluded: Collection[str] = ()
    included: Collection[str] = ()
    copies: dict[str, list[str]] = field(default_factory=dict)

    def separate_shared_weights(self) -> None:
        """Give each use that needs another scale or another layout of a shared weight a weight of its own."""
        from onnx import TensorProto

        uses = self._uses()
        given = {value.name for value in self.model.graph.input}
        for tensor in list(self.model.graph.initializer):
            readers = uses.get(tensor.name, ())
            if len(readers) < 2 or tensor.data_type != TensorProto.FLOAT or tensor.name in given:
                continue
            groups: dict[Hashable, list[tuple[NodeProto, int]]] = defaultdict(list)
            floats = []
            for number, (node, position, inner) in enumerate(readers):
                key = self._key(node, position, inner, number)
                if key == FLOAT:
                    floats.append((node, position))
                else:
                    groups[key].append((node, position))
            self._separate(tensor, groups, has_floats=bool(floats))

    def _separate(
        self, tensor: TensorProto, groups: dict[Hashable, list[tuple[NodeProto, int]]], *, has_floats: bool
    ) -> None:
        keys = list(groups)
        # A transposed Gemm that is alone keeps its weight: nobody else sees that the quantizer transposes it.
        turned = [key for key in keys if key == "transposed" and (len(keys) > 1 or has_floats or len(groups[key]) > 1)]
        keeps = [key for key in keys if key not in turned][:1]
        for key in keys:
            if key in keeps or (key == "transposed" and not turned):
                continue
            copy = self._copy(tensor, transposed=key in turned, needed=len(keys) > 1 or has_floats)
            for node, position in groups[key]:
                node.input[position] = copy
                if key in turned:
                    kept = [part for part in node.attribute if part.name != "transB"]
                    del node.attribute[:]
                    node.attribute.extend(kept)
        read = any(tensor.name in node.input for node in onnx_graph.nodes(self.model))
        if not read and all(value.name != tensor.name for value in self.model.graph.output):
            self.model.graph.initializer.remove(tensor)
            self.weights.pop(tensor.name, None)

    def _uses(self) -> dict[str, list[tuple[NodeProto, int, bool]]]:
        """Return who reads each tensor: node, position among its inputs, and whether it is inside a branch."""
        uses: dict[str, list[tuple[NodeProto, int, bool]]] = defaultdict(list)
        for graph in onnx_graph.graphs(self.model):
            inner = graph is not self.model.graph
            for node in graph.node:
                for position, name in enumerate(node.input):
                    uses[name].append((node, position, inner))
        return uses

    def _key(self, node: NodeProto, position: int, inner: bool, number: int) -> Hashable:
        """Return what uses must have in common to share a weight."""
        op = node.op_type
        transposed = op == "Gemm" and position == 1 and _flag(node, "transB")
        if transposed and self.mode == "dynamic":
            return "transposed"  # The quantizer does so with every Gemm, also with those that stay float.
        left_out = op not in self.op_types and not (op == "Gemm" and "MatMul" in self.op_types)
        named = (self.included and node.name not in self.included) or node.name in self.excluded
        if inner or left_out or named:
            return FLOAT
        if op == "LSTM" and self.mode == "dynamic":
            return ("recurrent", number)
        if position == 2 and op in ("Conv", "ConvTranspose", "Gemm") and self.mode != "dynamic":
            # The scale of a bias is the product of the scales of its node's other inputs.
            return ("bias", number)
        if self.per_channel and position == 1 and op in WEIGHT_AXES:
            return ("channels", 0 if transposed else WEIGHT_AXES[op])
        return "whole"

    def _copy(self, tensor: TensorProto, *, transposed: bool, needed: bool) -> str:
        """Add a copy of an initializer; return its name. :param needed: the original remains, so it is reported."""
        import numpy as np
        from onnx import helper, numpy_helper

        name = unused_name(f"{tensor.name}_{'transposed' if transposed else 'copy'}", self._names())
        data = self.weights.get(tensor.name)
        copy = self.model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = name
        if transposed:
            rows, columns = tensor.dims
            if data is None:
                copy.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), name))
            else:
                kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                data = np.frombuffer(data, kind).reshape(rows, columns).T.tobytes()
                copy.dims[:] = [columns, rows]
        if data is not None:
            self.weights[name] = data
        if needed and len(tensor.dims) > 1:
            self.copies.setdefault(tensor.name, []).append(name)
        return name

    def _names(self) -> set[str]:
        return tensor_names(self.model)

    def shield_readers(self) -> int:
        """Let branches and inputs that the quantizer forgets read tensors through an Identity; return how many tensors.

        The integer quantizers make a tensor float again for inputs of nodes in the main graph alone, and not for all
        of those (:data:`FORGOTTEN_INPUTS`). Every form of the quantizer gives a tensor the range of the Relu behind it
        if no other node of the main graph reads it.
        """
        from onnx import helper

        graph = self.model.graph
        read = {name for node in graph.node for inner in onnx_graph.inner_graphs(node) for name in _reads(inner)}
        read |= {name for node in graph.node for name in self._forgotten(node)}
        taken, shielded = tensor_names(self.model), dict[str, str]()
        kept = []
        for node in graph.node:
            kept.append(node)
            for name in node.output:
                if name and name in read:
                    shielded[name] = unused_name(f"{name}_unquantized", taken)
                    taken.add(shielded[name])
                    kept.append(helper.make_node("Identity", [name], [shielded[name]], name=shielded[name]))
        if shielded:
            for node in kept:
                for inner in onnx_graph.inner_graphs(node):
                    _rename_in(inner, shielded)
                for position, name in enumerate(node.input):
                    if name in shielded and name in self._forgotten(node):
                        node.input[position] = shielded[name]
            del graph.node[:]
            graph.node.extend(kept)
        return len(shielded)

    def _forgotten(self, node: NodeProto) -> list[str]:
        """Return the inputs of a node that the quantizer in this mode does not make float again."""
        first = FORGOTTEN_INPUTS.get((self.mode, node.op_type))
        return [name for name in node.input[first:] if name] if first else []


def lossy_activations(model: ModelProto, mode: Mode) -> list[NodeProto]:
    """Return the Relu and Clip that the static quantizer removes although their input does not end at their limits.

    It gives the input the range of the output and takes the node out. That is right only where the operator before
    has a scale for its output alone, and where nobody else reads what is between them. The QDQ format looks at the
    readers in the main graph, QOperator at nothing.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = defaultdict(int)
    for node in graph.node:
        for name in node.input:
            readers[name] += 1
    outside = {value.name for value in graph.output}
    outside |= {name for node in graph.node for inner in onnx_graph.inner_graphs(node) for name in _reads(inner)}
    found = []
    for node in graph.node:
        if node.op_type not in ("Relu", "Clip"):
            continue
        name = node.input[0]
        maker = makers.get(name)
        own_range = maker is not None and maker.op_type in OWN_RANGE and readers[name] == 1
        if name in outside or (mode == "QOperator" and not own_range):
            found.append(node)
    return found


def clipped_pads(model: ModelProto) -> list[NodeProto]:
    """Return the Pad whose value is not zero: QOperator gives it the scale of the input, which may not reach so far."""
    import numpy as np
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def is_zero(node: NodeProto) -> bool:
        if len(node.input) < 3 or not node.input[2]:
            return True
        value = constants.get(node.input[2])
        return value is not None and not np.any(numpy_helper.to_array(value))

    constant_mode = (b"", b"constant")
    return [
        node
        for node in model.graph.node
        if node.op_type == "Pad"
        and next((part.s for part in node.attribute if part.name == "mode"), b"") in constant_mode
        and not is_zero(node)
    ]


def nodes_of_other_domains(model: ModelProto, op_types: Collection[str]) -> list[NodeProto]:
    """Return the nodes that the quantizer would take for an operator of another domain.

    :param op_types: the operators that it knows.
    """
    return [
        node
        for node in onnx_graph.nodes(model)
        if node.op_type in op_types
        and (node.domain == onnx_graph.CONTRIB_DOMAIN) != (node.op_type in CONTRIB_OPERATORS)
    ]


def products_with_vectors(model: ModelProto) -> list[NodeProto]:
    """Return the MatMul of the main graph whose constant is a vector: per channel, their kernels refuse to run."""
    flat = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in flat]


def batched_products(model: ModelProto) -> list[NodeProto]:
    """Return the MatMul of the main graph that have a constant of three axes or more on the right."""
    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and ranks.get(node.input[1], 0) > 2]


def rename_reserved(model: ModelProto, weights: MutableMapping[str, Any]) -> dict[str, str]:
    """Rename tensors and nodes whose names the quantizer would give to something else; return the new names.

    ``b_quantized`` is such a name where there is a tensor or node ``b``. Inputs and outputs of the model keep their
    names: instead, the tensor that their name is made of is renamed, or gets an Identity.

    :param weights: as for :class:`Adapter`.
    """
    graph = model.graph
    tensors = tensor_names(model)
    node_names = {node.name for node in onnx_graph.nodes(model) if node.name}
    interface = {value.name for value in (*graph.input, *graph.output)}
    renamed: dict[str, str] = {}
    taken = tensors | node_names
    for name in sorted(tensors):
        for stem in _stems(name, tensors, node_names):
            victim = name if name not in interface else stem
            if victim in renamed or victim not in tensors:
                continue
            new = unused_name(f"{victim}_renamed", taken)
            taken.add(new)
            if victim in interface:
                _detach(model, victim, new)
            else:
                renamed[victim] = new
    for inner in onnx_graph.graphs(model):
        _rename_in(inner, renamed, deep=False)
    for old, new in renamed.items():
        if old in weights:
            weights[new] = weights.pop(old)
    nodes: dict[str, str] = {}
    for node in onnx_graph.nodes(model):
        if node.name and any(True for _ in _stems(node.name, taken, ())):
            nodes[node.name] = unused_name(f"{node.name}_renamed", taken)
            taken.add(nodes[node.name])
            node.name = nodes[node.name]
    return {**renamed, **nodes}


def _stems(name: str, tensors: Collection[str], node_names: Collection[str]) -> Iterator[str]:
    """Yield the names of tensors and nodes from which the quantizer could make ``name``."""
    for part in RESERVED.finditer(name):
        stem = name[: part.start()]
        # Of a node's name it makes names of tensors that begin with this suffix alone.
        if stem and (stem in tensors or (stem in node_names and part[0].startswith("_quant"))):
            yield stem


def _detach(model: ModelProto, name: str, new: str) -> None:
    """Let an Identity stand between an input or output of the model and the nodes inside, which get the new name."""
    from onnx import helper

    graph = model.graph
    is_input = any(value.name == name for value in graph.input)
    for inner in onnx_graph.graphs(model):
        for node in inner.node:
            for names in (node.input,) if is_input else (node.input, node.output):
                for position, one in enumerate(names):
                    if one == name:
                        names[position] = new
    pair = ([name], [new]) if is_input else ([new], [name])
    identity = helper.make_node("Identity", *pair, name=new)
    if is_input:
        graph.node.insert(0, identity)
    else:
        graph.node.append(identity)


def unused_name(wanted: str, taken: Collection[str]) -> str:
    """Return a name that is not taken, numbered where it has to be."""
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def tensor_names(model: ModelProto) -> set[str]:
    """Return the names of all tensors, at any depth."""
    found: set[str] = set()
    for graph in onnx_graph.graphs(model):
        found.update(tensor.name for tensor in graph.initializer)
        found.update(value.name for value in (*graph.input, *graph.output))
        for node in graph.node:
            found.update(node.input)
            found.update(node.output)
    return found - {""}


def _reads(graph: GraphProto) -> set[str]:
    """Return all names that a graph and those inside it read; names made inside are among them."""
    found = {value.name for value in graph.output}
    for node in graph.node:
        found.update(node.input)
        for inner in onnx_graph.inner_graphs(node):
            found |= _reads(inner)
    return found


def _rename_in(graph: GraphProto, names: dict[str, str], *, deep: bool = True) -> None:
    """Rename tensors wherever a graph has them. :param deep: also in the graphs inside."""
    for node in graph.node:
        for listed in (node.input, node.output):
            for position, name in enumerate(listed):
                if name in names:
                    listed[position] = names[name]
        if deep:
            for inner in onnx_graph.inner_graphs(node):
                _rename_in(inner, names)
    for entry in (*graph.initializer, *graph.value_info, *graph.output, *graph.input):
        entry.name = names.get(entry.name, entry.name)


def _flag(node: NodeProto, name: str) -> bool:
    return any(part.name == name and part.i for part in node.attribute)
