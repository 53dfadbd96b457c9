"""What the quantizing passes share: making a model ready, reading scales back, saying what changed.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._models import loading, model_file, onnx_graph, outlines, tensor_types
from . import quantizer_input, remedies, scale_lint, transposes, type_support

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from onnx import ModelProto

    from ortforge.api import PassJob

__all__ = [
    "Prepared",
    "dropped_nodes",
    "finish",
    "prepare",
    "said_of_dropped",
    "unchanged",
    "why_classical",
]

CLASSICAL: Final = "ai.onnx.ml"
REMOVABLE: Final = frozenset({"Clip", "Constant", "Identity", "Relu"})
"""Operators that quantizers take out rightly: a zero point cuts values off as Relu and Clip do."""

HEAVY_OPS: Final = frozenset({"Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul"})


@dataclass(frozen=True)
class Prepared:
    """A model made ready for a quantizer.

    :param path: the file to quantize: in the work folder, or the model as it came when nothing had to be done.
    :param opset: of the model as it came; :param ir_version: the same.
    :param said: what was done to it, for the result.
    :param names: node names by the parameter that chose them, globs resolved; :param op_types: the same of operators.
    :param per_tensor: names of products that get one scale for the whole weight although a scale for each channel was
        asked for: those with a constant of three axes or more.
    """

    model: ModelProto
    path: Path
    opset: int
    ir_version: int
    said: Mapping[str, Any]
    names: Mapping[str, list[str]]
    op_types: list[str]
    per_tensor: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def prepare(
    source: Path,
    workdir: Path,
    *,
    constants: bool,
    least_opset: int,
    why: str,
    named: Mapping[str, Sequence[str]],
    op_types: Sequence[str],
    takes: Collection[str],
    name_nodes: bool = False,
    per_channel: bool = False,
    values: bool = True,
    written: bool = True,
    quantizer: quantizer_input.Mode | None = None,
) -> Prepared:
    """Load a model, raise its opset where a quantizer would otherwise ruin it, and move constants to initializers.

    :param least_opset: raise to this one; :param why: what needs it, for the message.
    :param named: node names and globs by the parameter that has them; :param op_types: operators and globs.
    :param takes: the operators that the quantizer knows, which are what globs choose from.
    :param name_nodes: give names to nodes that have none, so that the pass itself can leave them out.
    :param per_channel: weights get a scale for each channel, which a product with a vector has not: such are left out.
    :param values: the pass looks at what weights hold; without it, the model may be an outline (``outlines.py``).
    :param written: the pass needs the file.
    :param quantizer: which of ONNX Runtime's quantizers will read it, for the faults of that one; ``None``: neither.
    :raises ValueError: the model is quantized already, is bound to one CPU, or lacks what is named.
    :raises RuntimeError: its opset cannot be raised.
    """
    apart = outlines.read(source)
    if values or _needs_changes(apart.model, least_opset):
        apart = outlines.Outline(model_file.load(source), {})
    model = apart.model
    if done := onnx_graph.quantized_ops(model):
        listed = ", ".join(f"{n} {op}" for op, n in list(done.items())[:4])
        raise ValueError(f"The model is quantized already ({listed}). Use a float model, or leave this pass out.")
    if any(node.domain == "com.microsoft.nchwc" for node in onnx_graph.nodes(model)):
        raise ValueError(
            "The model was optimized for one CPU's memory layout, which the quantizers do not know. "
            "Quantize first and put optimize after it, or use level = 'basic' before."
        )
    if _is_half(model):
        raise ValueError(
            "The model is in half precision: scales are taken from float32 weights. Quantize the float32 model."
        )
    opset, ir_version, said = onnx_graph.opset(model), model.ir_version, dict[str, Any]()
    if model.functions:
        # The quantizers look at the main graph alone, and onnx's converter of opsets loses functions.
        said["functions_inlined"] = len(model.functions)
        model = onnx_graph.without_functions(model)
    names = {parameter: onnx_graph.names_of(model, wanted, parameter) for parameter, wanted in named.items()}
    ops = onnx_graph.op_types_of(model, op_types, takes, "op_types")
    if onnx_graph.has_onnx_operators(model) and not why_classical(model):
        model = onnx_graph.raise_opset(model, least_opset, why)
    if constants and (moved := onnx_graph.constants_to_initializers(model)):
        said["constants_to_initializers"] = moved
    weights = dict(apart.weights)
    if constants and (folded := transposes.fold(model, weights)):
        said["transposes_folded"] = folded
    vectors = quantizer_input.products_with_vectors(model) if per_channel else []
    batched = quantizer_input.batched_products(model) if per_channel and quantizer else []
    foreign = quantizer_input.nodes_of_other_domains(model, takes) if quantizer else []
    static = quantizer in ("QDQ", "QOperator")
    activations = quantizer_input.lossy_activations(model, quantizer) if quantizer and static else []
    pads = quantizer_input.clipped_pads(model) if quantizer == "QOperator" else []
    unnamed = name_nodes or vectors or batched or foreign or activations or pads
    if unnamed and (named_now := onnx_graph.name_nodes(model)):
        said["nodes_named"] = named_now
    if vectors:
        said["products_with_vectors"] = [node.name for node in vectors]
    if foreign:
        said["left_to_other_domains"] = [node.name for node in foreign]
    if activations:
        said["activations_kept"] = [node.name for node in activations]
    left_out = [node.name for node in (*vectors, *foreign, *activations, *pads)]
    notes: list[str] = []
    if quantizer:
        names, notes = _adapt(model, weights, quantizer, names, left_out, ops or takes, said, per_channel=per_channel)
    elif left_out:
        names["nodes_to_exclude"] = [*names["nodes_to_exclude"], *left_out]
    if tensor_types.has_unknown_operators(model) and (typed := tensor_types.infer(model, workdir / "typed.onnx")):
        said["tensors_typed"] = typed
    # Also where nothing was changed: the quantizers write files beside the model that they read, and send it through
    # onnx's shape inference, for which weights that lie beside it cost nothing.
    path = workdir / "prepared.onnx"
    if written:
        outlines.save_apart(outlines.Outline(model, weights), path, ir_version=ir_version)
    per_tensor = tuple(node.name for node in batched if node.name not in names["nodes_to_exclude"])
    if per_tensor:
        said["weights_per_tensor"] = list(per_tensor)
    return Prepared(model, path, opset, ir_version, said, names, ops, per_tensor, tuple(notes))


def _adapt(
    model: ModelProto,
    weights: dict[str, Any],
    quantizer: quantizer_input.Mode,
    names: Mapping[str, list[str]],
    left_out: Sequence[str],
    op_types: Collection[str],
    said: dict[str, Any],
    *,
    per_channel: bool,
) -> tuple[dict[str, list[str]], list[str]]:
    """Work around faults of the quantizer; return the chosen names as they are now, and sentences about it."""
    names = {**names, "nodes_to_exclude": [*names["nodes_to_exclude"], *left_out]}
    if renamed := quantizer_input.rename_reserved(model, weights):
        said["renamed"] = renamed
        names = {parameter: [renamed.get(name, name) for name in chosen] for parameter, chosen in names.items()}
    adapter = quantizer_input.Adapter(
        model,
        weights,
        quantizer,
        per_channel,
        op_types,
        excluded=names["nodes_to_exclude"],
        included=names["nodes_to_include"],
    )
    adapter.separate_shared_weights()
    if shielded := adapter.shield_readers():
        said["tensors_shielded"] = shielded
    if not adapter.copies:
        return names, []
    said["weights_copied"] = adapter.copies
    count = sum(map(len, adapter.copies.values()))
    return names, [
        f"Several nodes read {scale_lint.some(list(adapter.copies))} and need different scales or layouts of it. They "
        f"got {count} quantized {'copy' if count == 1 else 'copies'} of their own, which makes the file larger."
    ]


def _needs_changes(model: ModelProto, least_opset: int) -> bool:
    """Whether a model goes through tools that want it whole: onnx's, or a session that tells its types."""
    raised = onnx_graph.has_onnx_operators(model) and onnx_graph.opset(model) < least_opset
    return bool(model.functions) or tensor_types.has_unknown_operators(model) or raised


def _is_half(model: ModelProto) -> bool:
    """Whether a model has matrices in half precision and none in single precision."""
    from onnx import TensorProto

    kinds = {tensor.data_type for tensor in model_file.tensors(model) if len(tensor.dims) > 1}
    return TensorProto.FLOAT not in kinds and not kinds.isdisjoint((TensorProto.FLOAT16, TensorProto.BFLOAT16))


def why_classical(model: ModelProto) -> str:
    """Say that a model is of classical machine learning and has nothing to quantize; ``""`` for any other model.

    Sums and products around a tree gain nothing by integers: they are a small part of its time.
    """
    classical = sorted({node.op_type for node in onnx_graph.nodes(model) if node.domain == CLASSICAL})
    if not classical or any(node.op_type in HEAVY_OPS or node.op_type == "Gather" for node in onnx_graph.nodes(model)):
        return ""
    return (
        f"NO-OP: the model computes with operators of ai.onnx.ml ({', '.join(classical)}), which no quantizer takes, "
        "and has no MatMul, Gemm, Conv, LSTM or Gather."
    )


def unchanged(source: Path, output: Path, warning: str) -> dict[str, Any]:
    """Copy the model as it is, and say why nothing was done."""
    model_file.copy(source, output)
    bytes_ = model_file.size(output)
    return {"quantized": {}, "bytes_before": bytes_, "bytes_after": bytes_, "warnings": [warning]}


def finish(job: PassJob, quantized: ModelProto, prepared: Prepared, *, advice: str = "") -> dict[str, Any]:
    """Write the quantizer's model with the input's IR version, check that it loads, and say what changed.

    :param advice: what to try when it does not load; empty where the caller finds out what helps.
    :raises NotImplementedError: the cell's EP and the CPU EP behind it have no kernel for an operator of the result.
    :raises RuntimeError: ONNX Runtime does not load what its own quantizer wrote.
    """
    source, output = Path(job.model), Path(job.output)
    # The quantizer sorts nodes without a look at what branches read.
    onnx_graph.sort_nodes(quantized)
    model_file.save(quantized, output, ir_version=prepared.ir_version)
    if problem := loading.load_error(output, job):
        if too_new := re.search(r"\b(?:Deq|Q)uantizeLinear\((\d+)\)", problem):
            raise NotImplementedError(
                f"The model has opset {too_new[1]}, and this runtime quantizes by the kernels of opsets up to "
                f"{type_support.newest_opset(int(too_new[1]))}: {problem} Export the model with that one, or quantize "
                "dynamically or weights alone."
            )
        if "NOT_IMPLEMENTED" in problem:
            raise remedies.MissingKernelError(
                f"This runtime has no kernel for what its quantizer wrote: {problem} {advice}".rstrip()
            )
        raise remedies.QuantizerError(
            f"ONNX Runtime does not load the model that its quantizer wrote: {problem} {advice}".rstrip()
        )
    before, after = onnx_graph.op_counts(prepared.model), onnx_graph.op_counts(quantized)
    changed = {
        "quantized": onnx_graph.quantized_ops(quantized),
        "replaced": {op: n - after.get(op, 0) for op, n in before.items() if after.get(op, 0) < n},
        "left_float": _left_float(quantized),
        "bytes_before": model_file.size(source),
        "bytes_after": model_file.size(output),
        **prepared.said,
    }
    if left := loading.left_to_cpu(output, job, changed["quantized"]):
        changed["left_to_cpu"] = left
    if dropped := dropped_nodes(prepared.model, quantized):
        changed["dropped"] = dropped
    if (opset := onnx_graph.opset(quantized)) != prepared.opset:
        changed["opset"] = f"{prepared.opset} -> {opset}"
    if quantized.ir_version != prepared.ir_version:
        changed["ir_version"] = f"{prepared.ir_version} -> {quantized.ir_version}"
    return changed


def dropped_nodes(before: ModelProto, after: ModelProto) -> list[str]:
    """Name the nodes of the float model that have no counterpart in the quantized one.

    By operator: as many as were lost must have come back in a quantized form. Which of them is missing is told by the
    tensors that nobody makes any more.
    """
    had, has = onnx_graph.op_counts(before), onnx_graph.op_counts(after)
    gained = {op: n - had.get(op, 0) for op, n in has.items() if n > had.get(op, 0)}
    made = sorted({name for node in onnx_graph.nodes(after) for name in node.output})
    found = []
    for op, count in had.items():
        lost = count - has.get(op, 0)
        replaced = sum(gained.get(form, 0) for form in _forms(op))
        if op in REMOVABLE or lost <= replaced:
            continue
        gone = [node for node in onnx_graph.nodes(before) if node.op_type == op and not _is_made(node.output, made)]
        found += [f"{node.name or node.output[0]} ({op})" for node in gone[: lost - replaced]] or [f"{lost} {op}"]
    return found


def _forms(op: str) -> list[str]:
    """What the quantizers turn an operator into, as a whole or in part."""
    forms = [
        f"QLinear{op}",
        f"{op}Integer",
        f"{op}IntegerToFloat",
        f"DynamicQuantize{op}",
        f"Q{op}",
        f"{op}NBits",
        f"{op}BlockQuantized",
    ]
    # Gemm becomes a product and a sum before it is quantized.
    return [*forms, "MatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul"] if op == "Gemm" else forms


def _is_made(names: Sequence[str], made: Sequence[str]) -> bool:
    """Whether a tensor is still made, under its name or with one of the quantizers' suffixes.

    What a QuantizeLinear puts out bears the tensor's name whatever it reads, and says nothing.
    """
    for name in names:
        place = bisect.bisect_left(made, name)
        while place < len(made) and made[place].startswith(name):
            rest = made[place].removeprefix(name)
            if not rest or (rest[0] == "_" and not rest.endswith("uantizeLinear_Output")):
                return True
            place += 1
    return False


def _left_float(model: ModelProto) -> dict[str, int]:
    """Count the heavy operators that compute in float: in QDQ form those that no DequantizeLinear feeds."""
    left = Counter[str]()
    for graph in onnx_graph.graphs(model):
        dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        left.update(
            node.op_type for node in graph.node if node.op_type in HEAVY_OPS and dequantized.isdisjoint(node.input)
        )
    return dict(sorted(left.items()))


def said_of_dropped(result: Mapping[str, Any], job: PassJob) -> list[str]:
    """Return a sentence if nodes were dropped, and one if the cell's EP leaves quantized ones to the CPU EP."""
    said = []
    if dropped := result.get("dropped", []):
        said.append(
            f"DROPPED NODES: {scale_lint.some(dropped)} is in the float model and has no counterpart in the quantized "
            "one."
        )
    if left := result.get("left_to_cpu", {}):
        listed = ", ".join(f"{n} {op}" for op, n in left.items())
        said.append(
            f"{job.ep_name} has no kernels for {listed}: those run on the CPU EP, with copies between the devices. Use "
            "another format or other types, or limit op_types."
        )
    return said
