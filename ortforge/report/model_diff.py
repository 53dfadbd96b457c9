"""What differs between two models: operators, types, sizes, opsets, fusions, weights, nodes by name. Pure but for the
digests of weights, which it asks for only where types and shapes are equal.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from ortforge.report.model_identity import model_identity
from ortforge.report.onnx_reading import Model, Node, Tensor, Value

__all__ = ["HEAVY", "QUANTIZED", "compare"]

Digest = Callable[[Tensor], str]
"""Returns a digest of a weight's values, or ``""`` when they cannot be had."""

COMPOSED: Final = frozenset(
    {
        "Attention",
        "Gelu",
        "GroupNormalization",
        "HardSwish",
        "InstanceNormalization",
        "LayerNormalization",
        "Mish",
        "RMSNormalization",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "Softplus",
        "Swish",
    }
)
"""Operators of ONNX's own set that stand for several simpler ones."""

CONTRIB: Final = "com.microsoft"

QUANTIZED: Final = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "QMoE",
        "QOrderedAttention",
        "QOrderedMatMul",
    }
)
"""Operators that compute with quantized weights."""

QUANTIZING: Final = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})

HEAVY: Final = frozenset(
    {
        "Attention",
        "Conv",
        "ConvTranspose",
        "EmbedLayerNormalization",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "GRU",
        "Gemm",
        "LSTM",
        "MatMul",
        "MultiHeadAttention",
        "RNN",
    }
)
"""Operators that do a model's work, in float."""

LOW_BIT_TYPES: Final = frozenset(
    {"float4e2m1", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "int2", "int4", "int8"}
    | {"uint2", "uint4", "uint8"}
)


def compare(a: Model, b: Model, digest_a: Digest, digest_b: Digest) -> dict[str, Any]:
    """Return all differences as JSON values; docs/diff.md describes the form.

    :param digest_a: digests of the weights of ``a``; :param digest_b: of ``b``.
    """
    ops_a, ops_b = (Counter(node.op for node in model.nodes) for model in (a, b))
    found: dict[str, Any] = {
        "header": _changed(_header(a), _header(b)),
        "opsets": _changed(a.opsets, b.opsets),
        "operators": {op: [ops_a[op], ops_b[op]] for op in sorted({*ops_a, *ops_b}) if ops_a[op] != ops_b[op]},
        "fusions": _fusions(ops_a, ops_b),
        "quantization": {"a": _quantization(a), "b": _quantization(b)},
        "inputs": _values(a.inputs, b.inputs),
        "outputs": _values(a.outputs, b.outputs),
        "overridable_inputs": _values(a.overridable_inputs, b.overridable_inputs),
        "initializers": {"a": _by_type(a.weights), "b": _by_type(b.weights)},
        "weights": _weights(a.weights, b.weights, digest_a, digest_b),
        "nodes": _nodes(a.nodes, b.nodes),
        "functions": _functions(a.functions, b.functions),
        "metadata": _changed(a.metadata, b.metadata),
    }
    found |= _identities(a, b, digest_a, digest_b)
    return found


def _identities(a: Model, b: Model, digest_a: Digest, digest_b: Digest) -> dict[str, Any]:
    """Say whether two models compute the same with the same interface, and which other parts of the files differ.

    Weights are read only when everything else is equal. Where they are not available, nobody knows: not the same.
    """
    one, two = (model_identity(model, _any_content) for model in (a, b))
    same = (one.computation, one.interface) == (two.computation, two.interface)
    same = same and one.other.get(_TRAINING) == two.other.get(_TRAINING)
    if same:
        computations = [model_identity(model, digest).computation for model, digest in ((a, digest_a), (b, digest_b))]
        same = "" not in computations and computations[0] == computations[1]
    return {"same": same, "other": _changed(one.other, two.other)}


_TRAINING: Final = "training information"


def _any_content(tensor: Tensor) -> str:
    return "not read"


def _header(model: Model) -> dict[str, Any]:
    return {
        "ir_version": model.ir_version,
        "producer": model.producer,
        "domain": model.domain,
        "model_version": model.version,
    }


def _changed(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what two mappings have differently, as pairs; ``None`` where one has it not."""
    return {key: [a.get(key), b.get(key)] for key in dict.fromkeys((*a, *b)) if _differ(a.get(key), b.get(key))}


def _differ(a: Any, b: Any) -> bool:
    """Compare JSON values with their types and signs: 1 and 1.0 differ, 0.0 and -0.0 too, NaN is equal to itself."""
    return json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)


# Operators


def _bare(op: str) -> str:
    return op.rpartition(":")[2]


def _fusions(ops_a: Mapping[str, int], ops_b: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the composed operators that there are more of now, and what there is less of.

    Nothing is called a fusion unless operators went for it: a model with more layers has more of everything.
    """
    gained = {op: n - ops_a.get(op, 0) for op, n in ops_b.items() if n > ops_a.get(op, 0)}
    lost = {op: n - ops_b.get(op, 0) for op, n in ops_a.items() if n > ops_b.get(op, 0)}
    fused = {op: n for op, n in gained.items() if _is_composed(op)}
    if not fused or sum(lost.values()) <= sum(fused.values()):
        return {"gained": {}, "instead_of": {}}
    return {"gained": _by_count(fused), "instead_of": _by_count(lost)}


def _is_composed(op: str) -> bool:
    bare = _bare(op)
    if bare in QUANTIZED or bare in QUANTIZING or bare.startswith("QLinear"):
        return False
    return op.startswith(CONTRIB) or bare in COMPOSED


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _quantization(model: Model) -> dict[str, Any]:
    """Return how many of the heavy operators are quantized, and how many bytes of weights have 8 bits or less.

    In QDQ form an operator counts when its weight (or second factor) comes from a DequantizeLinear.
    """
    dequantized = {name for node in model.nodes if _bare(node.op) == "DequantizeLinear" for name in node.outputs}
    forms: Counter[str] = Counter()
    floats = 0
    for node in model.nodes:
        op = _bare(node.op)
        if op in QUANTIZED or op.startswith("QLinear"):
            forms[_form(op)] += op in QUANTIZED
        elif op in HEAVY:
            if len(node.inputs) > 1 and node.inputs[1] in dequantized:
                forms["QDQ" if node.inputs[0] in dequantized else "weights only"] += 1
            else:
                floats += 1
    quantized = sum(forms.values())
    low = sum(tensor.bytes for tensor in model.weights if tensor.dtype in LOW_BIT_TYPES)
    return {
        "operators": quantized,
        "of": quantized + floats,
        "forms": {form: count for form, count in sorted(forms.items()) if count},
        "low_bit_bytes": low,
        "bytes": sum(tensor.bytes for tensor in model.weights),
    }


def _form(op: str) -> str:
    if op.startswith(("QLinear", "QGemm", "QOrdered")):
        return "QOperator"
    return "weights only" if op in ("GatherBlockQuantized", "MatMulBnb4", "MatMulFpQ4", "MatMulNBits") else "dynamic"


# Inputs, outputs, weights


def _functions(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, Any]:
    both = {name: [a[name], b[name]] for name in a if name in b}
    return {
        "added": sorted({*b} - {*a}),
        "removed": sorted({*a} - {*b}),
        "changed": {name: pair for name, pair in both.items() if pair[0] != pair[1]},
    }


def _values(a: Sequence[Value], b: Sequence[Value]) -> dict[str, Any]:
    before, after = ({value.name: value.type for value in values} for values in (a, b))
    return {
        "added": {name: after[name] for name in after if name not in before},
        "removed": {name: before[name] for name in before if name not in after},
        "changed": {
            name: [before[name], after[name]] for name in before if after.get(name, before[name]) != before[name]
        },
        "order": [[*before], [*after]] if before.keys() == after.keys() and [*before] != [*after] else [],
    }


def _by_type(weights: Iterable[Tensor]) -> dict[str, dict[str, int]]:
    """Return count and bytes of the weights of each data type, the largest first."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"count": 0, "bytes": 0})
    for tensor in weights:
        found[tensor.dtype]["count"] += 1
        found[tensor.dtype]["bytes"] += tensor.bytes
    return dict(sorted(found.items(), key=lambda pair: -pair[1]["bytes"]))


def _weights(a: Sequence[Tensor], b: Sequence[Tensor], digest_a: Digest, digest_b: Digest) -> dict[str, Any]:
    before, after = _unique(a), _unique(b)
    equal, changed, retyped, unknown = 0, [], {}, []
    for name in (name for name in before if name in after):
        one, other = before[name], after[name]
        if (one.data_type, one.dims, one.sparse_dims) != (other.data_type, other.dims, other.sparse_dims):
            retyped[name] = [_told(one), _told(other)]
            continue
        left, right = digest_a(one), digest_b(other)
        if not left or not right:
            unknown.append(name)
        elif left == right:
            equal += 1
        else:
            changed.append(name)
    removed = {name: tensor for name, tensor in before.items() if name not in after}
    added = {name: tensor for name, tensor in after.items() if name not in before}
    quantized = _quantized_weights(removed, added)
    # Elsewhere such a name may be a weight's own.
    scales = [name for name in added if quantized and len(added[name].dims) < 2 and _SCALE.search(name)]
    for name, twin in quantized.items():
        del removed[name], added[twin]
    ordered = sorted(quantized.items(), key=lambda pair: -before[pair[0]].bytes)
    told = {name: [_told(before[name]), _told(after[twin])] for name, twin in ordered}
    for name in scales:
        del added[name]
    renamed = _renamed(removed, added, digest_a, digest_b)
    return {
        "equal": equal,
        "changed": changed,
        "retyped": retyped,
        "quantized": told,
        "scales": scales,
        "renamed": renamed,
        "added": _largest_first({name: added[name] for name in added if name not in renamed.values()}),
        "removed": _largest_first({name: removed[name] for name in removed if name not in renamed}),
        "not_compared": unknown,
    }


_SCALE: Final = re.compile(r"_(scales?|zero_points?)$")
"""Names that quantizers give to what they need beside the integers."""

_INTEGERS: Final = ("_quantized", "_Q2", "_Q4", "_Q8")
"""What quantizers put behind a weight's name for its integers."""


def _quantized_weights(removed: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> dict[str, str]:
    """Pair float weights that went with the integers that came for them, by the names that quantizers give."""
    pairs = ((name, f"{name}{suffix}") for name in removed for suffix in _INTEGERS)
    return {name: twin for name, twin in pairs if twin in added and "int" in added[twin].dtype}


def _largest_first(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    ordered = sorted(tensors.items(), key=lambda pair: -pair[1].bytes)
    return {name: _told(tensor) for name, tensor in ordered}


def _told(tensor: Tensor) -> str:
    sparse = "" if tensor.sparse_dims is None else f" of sparse [{', '.join(map(str, tensor.sparse_dims))}]"
    return f"{tensor.dtype}[{', '.join(map(str, tensor.dims))}]{sparse}"


def _unique(weights: Iterable[Tensor]) -> dict[str, Tensor]:
    """Index weights by name; those of inner graphs may have one that is taken."""
    found: dict[str, Tensor] = {}
    for tensor in weights:
        name, number = tensor.name, 1
        while name in found:
            number += 1
            name = f"{tensor.name}#{number}"
        found[name] = tensor
    return found


def _renamed(
    removed: Mapping[str, Tensor], added: Mapping[str, Tensor], digest_a: Digest, digest_b: Digest
) -> dict[str, str]:
    """Pair weights that went with weights that came and have the same values; scalars are too alike to be paired."""
    candidates: dict[tuple[int, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, tensor in added.items():
        if tensor.bytes > 8:
            candidates[tensor.data_type, tensor.dims].append(name)
    pairs: dict[str, str] = {}
    for name, tensor in removed.items():
        there = candidates.get((tensor.data_type, tensor.dims))
        values = digest_a(tensor) if there else ""
        twin = next((other for other in there or () if values and digest_b(added[other]) == values), "")
        if there and twin:
            pairs[name] = twin
            there.remove(twin)
    return pairs


# Nodes


def _nodes(a: Sequence[Node], b: Sequence[Node]) -> dict[str, Any]:
    """Match nodes by name (those without one by their first output). Constants that are weights here are left out."""
    before, after = _named(a), _named(b)
    changed = {}
    for name in (name for name in before if name in after):
        what = _node_changes(before[name], after[name])
        if what:
            changed[name] = {"operator": after[name].op, **what}
    return {
        "kept": len(before.keys() & after.keys()) - len(changed),
        "added": {name: node.op for name, node in after.items() if name not in before},
        "removed": {name: node.op for name, node in before.items() if name not in after},
        "changed": changed,
    }


def _named(nodes: Iterable[Node]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for node in nodes:
        if node.op == "Constant" and "value" in node.attributes:
            continue
        key, number = node.key, 1
        while key in found:
            number += 1
            key = f"{node.key}#{number}"
        found[key] = node
    return found


def _node_changes(a: Node, b: Node) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if a.op != b.op:
        found["was"] = a.op
    if attributes := _changed(a.attributes, b.attributes):
        found["attributes"] = attributes
    if a.inputs != b.inputs:
        found["inputs"] = [list(a.inputs), list(b.inputs)]
    if a.outputs != b.outputs:
        found["outputs"] = [list(a.outputs), list(b.outputs)]
    if a.place != b.place:
        found["place"] = [a.place, b.place]
    return found
