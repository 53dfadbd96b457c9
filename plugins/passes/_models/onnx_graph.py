"""What the passes do to graphs: walk them with their branches, count, turn constants into weights, raise the opset.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from . import choosing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = [
    "DEFAULT_DOMAINS",
    "MASK_MAGNITUDE",
    "QUANTIZED_OPS",
    "changed_types",
    "constants_to_initializers",
    "demote_weight_inputs",
    "fit_imports",
    "float_weights",
    "graphs",
    "has_onnx_operators",
    "inner_graphs",
    "name_nodes",
    "names_of",
    "nodes",
    "op_counts",
    "op_types_of",
    "opset",
    "quantized_ops",
    "raise_opset",
    "restore",
    "sort_nodes",
    "unmade",
    "without_functions",
]

DEFAULT_DOMAINS: Final = ("", "ai.onnx")
CONTRIB_DOMAIN: Final = "com.microsoft"
"""ONNX Runtime's own operators; there is one version of this domain."""

MASK_MAGNITUDE: Final = 1e30
"""Constants beyond it are a mask's "minus infinity" (-3.4e38 in most exports), not data."""

QUANTIZED_OPS: Final = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QuantizeLinear",
    }
)
"""Operators that only a quantized model has; with them, everything named ``QLinear…``."""


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yield the main graph and every graph inside it, outer ones first."""
    yield from _within(model.graph)


def _within(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from _within(inner)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a node (branches, bodies of loops), without those that are inside them."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node at any depth, those of the model's functions too."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def op_counts(model: ModelProto) -> dict[str, int]:
    """Count the nodes by operator, at any depth."""
    return dict(sorted(Counter(node.op_type for node in nodes(model)).items()))


def quantized_ops(model: ModelProto) -> dict[str, int]:
    """Count the operators that only a quantized model has."""
    return {op: n for op, n in op_counts(model).items() if op in QUANTIZED_OPS or op.startswith("QLinear")}


def opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operator set (1 for a model that states none)."""
    return max((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=1)


def fit_imports(model: ModelProto) -> None:
    """Make a model import the operator domains that its nodes use, and no others.

    ORT writes every domain it knows into the models that it saves, and an older ORT refuses versions that it does
    not know. Its fusions, on the other hand, add ``com.microsoft`` operators without the import: a session takes that,
    onnx's shape inference (the first thing that the quantizers do) does not.
    """
    used = {node.domain for node in nodes(model)} | {function.domain for function in model.functions}
    kept = [entry for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS or entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if CONTRIB_DOMAIN in used and all(entry.domain != CONTRIB_DOMAIN for entry in kept):
        model.opset_import.add(domain=CONTRIB_DOMAIN, version=1)


def demote_weight_inputs(model: ModelProto) -> int:
    """Drop graph inputs that are only weights listed twice, as IR versions below 4 asked for; return how many."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    dropped = len(model.graph.input) - len(kept)
    if dropped:
        del model.graph.input[:]
        model.graph.input.extend(kept)
    return dropped


def sort_nodes(model: ModelProto) -> bool:
    """Put the nodes of the main graph into an order in which each comes after what it reads; say whether any moved.

    What branches and loop bodies read from outside counts, which ONNX Runtime's own scripts forget.
    A graph with a cycle is left as it is.
    """
    graph = model.graph
    made_by = {name: at for at, node in enumerate(graph.node) for name in node.output if name}
    needs = [{made_by[name] for name in _reads(node) if name in made_by} for node in graph.node]
    order: list[int] = []
    placed = set[int]()
    waiting = list(range(len(graph.node)))
    while waiting:
        later = []
        for at in waiting:
            if needs[at] <= placed:
                placed.add(at)
                order.append(at)
            else:
                later.append(at)
        if len(later) == len(waiting):
            return False
        waiting = later
    if order == sorted(order):
        return False
    nodes = [graph.node[at] for at in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def unmade(model: ModelProto) -> set[str]:
    """Return the names that nodes of the main graph, or graphs inside them, read and that nothing makes."""
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    return {name for node in graph.node for name in _reads(node) - _made_inside(node)} - made


def restore(model: ModelProto, original: ModelProto) -> int:
    """Bring back from ``original`` the nodes and weights that branches still read, and all that those need.

    Return how many nodes. Tools that remove what nobody reads, ONNX Runtime's own scripts among them, forget branches.
    """
    maker = {name: node for node in original.graph.node for name in node.output if name}
    weights = {tensor.name: tensor for tensor in original.graph.initializer}
    restored = 0
    while missing := {name for name in unmade(model) if name in maker or name in weights}:
        for name in sorted(missing):
            if name in weights:
                model.graph.initializer.add().CopyFrom(weights[name])
            elif all(node.name != maker[name].name or node.output != maker[name].output for node in model.graph.node):
                model.graph.node.add().CopyFrom(maker[name])
                restored += 1
    return restored


def _made_inside(node: NodeProto) -> set[str]:
    """Return the names that the graphs inside a node make themselves."""
    found = set[str]()
    for graph in inner_graphs(node):
        found.update(value.name for value in graph.input)
        found.update(tensor.name for tensor in graph.initializer)
        for inner in graph.node:
            found.update(inner.output)
            found |= _made_inside(inner)
    return found


def _reads(node: NodeProto) -> set[str]:
    """Return the names that a node and the graphs inside it read; those that are made inside do no harm."""
    found = {name for name in node.input if name}
    for graph in inner_graphs(node):
        found.update(value.name for value in graph.output)
        for inner in graph.node:
            found |= _reads(inner)
    return found


def name_nodes(model: ModelProto) -> int:
    """Give a unique name to every node that has none, so that it can be excluded by name; return how many."""
    taken = {node.name for node in nodes(model)}
    named = 0
    for node in nodes(model):
        if not node.name:
            number = named
            while (name := f"{node.op_type}_{number}") in taken:
                number += 1
            node.name = name
            taken.add(name)
            named += 1
    return named


def constants_to_initializers(model: ModelProto) -> int:
    """Turn Constant nodes into initializers of the graph they stand in; return how many.

    The quantizers look for weights among initializers only. Constants that are an output of their graph, are sparse or
    hold strings stay.
    """
    moved = 0
    # Inner graphs first: giving an outer one its nodes again makes copies of the graphs inside them.
    for graph in reversed(list(graphs(model))):
        outputs = {value.name for value in graph.output}
        kept = []
        for node in graph.node:
            tensor = None if node.output and node.output[0] in outputs else _constant_value(node)
            if tensor is None:
                kept.append(node)
            else:
                tensor.name = node.output[0]
                graph.initializer.append(tensor)
                moved += 1
        if len(kept) != len(graph.node):
            del graph.node[:]
            graph.node.extend(kept)
    return moved


def _constant_value(node: NodeProto) -> TensorProto | None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    plain: dict[str, Any] = {
        "value_float": (attribute.f, np.float32),
        "value_floats": (list(attribute.floats), np.float32),
        "value_int": (attribute.i, np.int64),
        "value_ints": (list(attribute.ints), np.int64),
    }
    if attribute.name == "value" and attribute.t.data_type != TensorProto.STRING:
        tensor = TensorProto()
        tensor.CopyFrom(attribute.t)
        return tensor
    if attribute.name in plain:
        value, dtype = plain[attribute.name]
        return numpy_helper.from_array(np.asarray(value, dtype=dtype))
    return None


def has_onnx_operators(model: ModelProto) -> bool:
    """Whether the model imports ONNX's own operator set at all (tree models import ``ai.onnx.ml`` alone)."""
    return any(entry.domain in DEFAULT_DOMAINS for entry in model.opset_import)


def without_functions(model: ModelProto) -> ModelProto:
    """Return the model with its functions, which torch's exporters write, put where they are called."""
    from onnx import inliner

    flat = inliner.inline_local_functions(model)
    fit_imports(flat)
    return flat


def raise_opset(model: ModelProto, to: int, why: str) -> ModelProto:
    """Return the model with ONNX's operator set raised to at least ``to``.

    :raises RuntimeError: onnx's converter cannot do it for this model.
    """
    import onnx
    from onnx import version_converter

    at = opset(model)
    if at >= to:
        return model
    try:
        raised = version_converter.convert_version(model, to)
        # The checker refuses what sessions take, such as outputs without a shape: that is not the converter's doing.
        if _passes_checker(model):
            onnx.checker.check_model(raised)
    except Exception as problem:
        raise RuntimeError(
            f"The model has opset {at}, but {why} needs {to}, and onnx's converter cannot raise it: "
            f"{str(problem).strip().splitlines()[0][:300]} Export the model again with opset {to} or later."
        ) from problem
    raised.ir_version = model.ir_version
    if not raised.metadata_props:
        raised.metadata_props.extend(model.metadata_props)
    return raised


def _passes_checker(model: ModelProto) -> bool:
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception:
        return False
    return True


def names_of(model: ModelProto, wanted: Iterable[str], parameter: str) -> list[str]:
    """Return the nodes that a parameter chooses: each by its name, or by a glob (``/layer.0/*``) for all that match.

    :raises ValueError: there is no such node; the message gives the nearest names.
    """
    known = list(dict.fromkeys(node.name for node in nodes(model) if node.name))
    nothing = "" if known else " No node of it has a name: put preprocess first, which gives them names."
    return choosing.chosen(wanted, known, f"{parameter} names {{!r}}, but the model has no node of that name.{nothing}")


def op_types_of(model: ModelProto, wanted: Iterable[str], takes: Collection[str], parameter: str) -> list[str]:
    """Return the operators that a parameter chooses: each by its name, or by a glob (``Conv*``) among those that the
    model has and the quantizer takes. A name that the model does not have stays: one recipe serves many models.

    :param takes: empty for a parameter that any operator may be given to.
    :raises ValueError: a glob matches nothing, or there is no operator of that name; the message gives the nearest.
    """
    known = [op for op in op_counts(model) if op in takes or not takes]
    among = " that the quantizer takes" if takes else ""
    what = f"{parameter} has {{!r}}, which matches no operator of the model{among}."
    return choosing.chosen(wanted, known, what, absent=lambda op: op in takes or choosing.is_operator(op))


def changed_types(before: ModelProto, after: ModelProto) -> dict[str, dict[str, str]]:
    """Return what a pass says of types that it changed, by numpy's names, nothing where it changed none.

    ``inputs`` has the new type of each such input, ``outputs`` the old one of each such output.
    """
    from onnx import helper

    def differing(one: Iterable[ValueInfoProto], other: Iterable[ValueInfoProto]) -> dict[str, str]:
        known = {value.name: value.type.tensor_type.elem_type for value in one}
        kinds = {value.name: value.type.tensor_type.elem_type for value in other}
        changed = {name: kind for name, kind in kinds.items() if known.get(name, kind) != kind}
        return {name: str(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in changed.items()}

    found = {
        "inputs": differing(before.graph.input, after.graph.input),
        "outputs": differing(after.graph.output, before.graph.output),
    }
    return {which: types for which, types in found.items() if types}


def float_weights(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every float32 tensor at any depth: initializers and the values of Constant nodes."""
    from onnx import TensorProto

    for graph in graphs(model):
        yield from (tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT)
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.t.data_type == TensorProto.FLOAT:
                        named = TensorProto()
                        named.CopyFrom(attribute.t)
                        named.name = node.output[0]
                        yield named
