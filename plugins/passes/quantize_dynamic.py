"""``quantize-dynamic``: weights to int8 ahead of time, activations when the model runs. Needs no calibration data.

Where the runtime has no ConvInteger for signed weights (ONNX Runtime 1.21 and others), Conv gets unsigned ones and all
else stays as asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._models import model_file, onnx_graph
from ._quantization import extra_options, quantizer_input, quantizing, remedies, type_support

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

ExtraOption = bool | int | float | str


@dataclass(frozen=True)
class Parameters:
    """What ``quantize-dynamic`` can be told."""

    weight_type: Literal["QInt8", "QUInt8", "QInt4", "QUInt4"] = field(
        default="QInt8",
        metadata={"doc": "type of the quantized weights; for 4 bits there is quantize-weights, as the refusal says"},
    )
    per_channel: bool = field(
        default=False, metadata={"doc": "one scale per output channel: closer, a little slower; raises the opset to 13"}
    )
    reduce_range: bool = field(
        default=False, metadata={"doc": "7-bit weights: for CPUs without VNNI, whose sums may overflow"}
    )
    op_types: tuple[str, ...] = field(
        default=(), metadata={"doc": "operators to quantize, by name or glob; empty: all that ONNX Runtime can"}
    )
    nodes_to_exclude: tuple[str, ...] = field(
        default=(), metadata={"doc": "nodes that stay float, by name or glob, e.g. /layer.0/*"}
    )
    nodes_to_include: tuple[str, ...] = field(
        default=(), metadata={"doc": "the only nodes to quantize, by name or glob; empty: all"}
    )
    constants_to_initializers: bool = field(
        default=True,
        metadata={
            "doc": "move weights out of Constant nodes first: the quantizer looks for them among initializers only"
        },
    )
    subgraphs: bool = field(
        default=False,
        metadata={
            "doc": "quantize inside the branches of If, Loop and Scan too: ONNX Runtime can, but check what it does"
        },
    )
    extra_options: dict[str, ExtraOption] = field(
        default_factory=dict, metadata={"doc": "passed to onnxruntime.quantization as they are, e.g. MatMulConstBOnly"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="quantize-dynamic",
            summary="int8 weights, activations quantized while running; no calibration data needed",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            objection=_objection,
            example={"weight_type": "QInt8", "op_types": ["MatMul"]},
        )
    ]


def _objection(use: PassUse) -> str:
    return contradiction(use.parameters)


def contradiction(wanted: Parameters) -> str:
    """Say which parameters cannot work on any runtime, or return ``""``."""
    if wanted.weight_type in ("QInt4", "QUInt4"):
        return (
            f"ONNX Runtime has no dynamic quantization to {wanted.weight_type}: its 4-bit weights go with float "
            "activations (MatMulNBits); use the pass quantize-weights"
        )
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Quantize ``job.model`` into ``job.output``.

    :raises ValueError: the model is quantized already, or a parameter names what it does not have.
    :raises NotImplementedError: this runtime has no kernel for the result.
    :raises RuntimeError: the opset cannot be raised, or the result does not load.
    """
    return quantize(job, Parameters(**job.parameters))


def quantize(job: PassJob, wanted: Parameters) -> dict[str, Any]:
    """Do what :func:`apply` does, with parameters of one's own: for passes that choose them."""
    changes: dict[str, dict[str, Any]] = {}
    if tuple(wanted.op_types) != ("MatMul",):
        changes["op_types = ['MatMul']"] = {"op_types": ("MatMul",)}
    if wanted.per_channel:
        changes["per_channel = false"] = {"per_channel": False}
    return remedies.quantized(job, wanted, _quantize_model, changes)


def _quantize_model(job: PassJob, wanted: Parameters) -> dict[str, Any]:
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    if refused := contradiction(wanted):
        raise NotImplementedError(f"{refused}.")
    extra_options.refuse_unknown(wanted.extra_options, job.ort_version)
    prepared = quantizing.prepare(
        source,
        workdir,
        constants=wanted.constants_to_initializers,
        least_opset=13 if wanted.per_channel else 11,
        why="quantization per channel" if wanted.per_channel else "dynamic quantization",
        named={"nodes_to_exclude": wanted.nodes_to_exclude, "nodes_to_include": wanted.nodes_to_include},
        op_types=wanted.op_types,
        takes=IntegerOpsRegistry,
        per_channel=wanted.per_channel,
        values=False,
        quantizer="dynamic",
    )
    if reason := quantizing.why_classical(prepared.model):
        return quantizing.unchanged(source, output, reason)
    model, warnings = _quantized(wanted, prepared, workdir, job.ort_version)
    if not onnx_graph.quantized_ops(model):
        return quantizing.unchanged(source, output, _why_nothing(prepared, wanted))
    result = quantizing.finish(job, model, prepared)
    warnings += quantizing.said_of_dropped(result, job)
    if job.ep in ("", "cpu"):
        warnings += type_support.wrong_products(prepared.model, job.ort_version, job.cpu_flags)
    if convs := result["quantized"].get("ConvInteger", 0):
        warnings.append(
            f"{convs} Conv were quantized dynamically: ConvInteger is usually slower than Conv in float on a CPU. "
            "Use quantize-static for them, or op_types = ['MatMul']."
        )
    return {**result, "warnings": warnings}


@dataclass(frozen=True)
class _Stage:
    """One call of the quantizer.

    :param op_types: ``None``: all that it knows. :param only: the only nodes to quantize; empty: those that the recipe
        chose. :param without: nodes that stay float in this stage.
    """

    wanted: Parameters
    op_types: list[str] | None
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def _stages(wanted: Parameters, prepared: quantizing.Prepared) -> list[_Stage]:
    """Return the calls that are needed: the quantizer takes one type and one kind of scales at a time."""
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    ops = prepared.op_types
    convs = onnx_graph.op_counts(prepared.model).get("Conv", 0) if not ops or "Conv" in ops else 0
    batched = prepared.per_tensor
    stages = []
    if convs and wanted.weight_type == "QInt8" and not type_support.has_int8_conv():
        stages.append(_Stage(replace(wanted, weight_type="QUInt8"), ["Conv"]))
        if others := [op for op in ops or IntegerOpsRegistry if op != "Conv"]:
            stages.append(_Stage(wanted, others, without=batched))
    else:
        stages.append(_Stage(wanted, ops or None, without=batched))
    if batched and (not ops or "MatMul" in ops):
        included = prepared.names["nodes_to_include"]
        if chosen := tuple(name for name in batched if not included or name in included):
            stages.append(_Stage(replace(wanted, per_channel=False), ["MatMul"], only=chosen))
    return stages


def _quantized(
    wanted: Parameters, prepared: quantizing.Prepared, workdir: Path, ort_version: str
) -> tuple[Any, list[str]]:
    """Return the quantized model, and sentences about what got another type or other scales than asked for."""
    notes, source = list(prepared.notes), prepared.path
    for number, stage in enumerate(_stages(wanted, prepared)):
        written = workdir / f"quantized-{number}.onnx"
        if number:
            # The quantizer would give the same names again.
            between = model_file.load(source)
            quantizer_input.rename_reserved(between, {})
            source = workdir / f"between-{number}.onnx"
            model_file.save(between, source, ir_version=between.ir_version)
        _quantize(stage, prepared, source, written)
        source = written
        if stage.wanted.weight_type != wanted.weight_type:
            notes.append(
                f"Conv got QUInt8 weights: ONNX Runtime {ort_version} has no ConvInteger for QInt8 on the CPU. "
                "The other operators have QInt8."
            )
        if stage.only:
            notes.append(
                f"{len(stage.only)} MatMul with a constant of three axes or more have one scale for each weight as a "
                "whole: ONNX Runtime has no kernel for such products with a scale for each channel."
            )
    return model_file.load(source), notes


def _quantize(stage: _Stage, prepared: quantizing.Prepared, source: Path, written: Path) -> None:
    import onnxruntime.quantization as quantization

    wanted = stage.wanted
    options: dict[str, Any] = dict(wanted.extra_options)
    if wanted.subgraphs and len(list(onnx_graph.graphs(prepared.model))) > 1:
        options.setdefault("EnableSubgraph", True)
    try:
        quantization.quantize_dynamic(
            str(source),
            str(written),
            op_types_to_quantize=stage.op_types,
            per_channel=wanted.per_channel,
            reduce_range=wanted.reduce_range,
            weight_type=quantization.QuantType[wanted.weight_type],
            nodes_to_quantize=list(stage.only) or _products(prepared, "nodes_to_include") or None,
            nodes_to_exclude=[*_products(prepared, "nodes_to_exclude"), *stage.without] or None,
            use_external_data_format=model_file.needs_external_data(prepared.model),
            extra_options=options,
        )
    except Exception as problem:
        raise remedies.QuantizerError(
            f"ONNX Runtime's quantizer failed: {model_file.first_sentence(problem)}"
        ) from problem


def _products(prepared: quantizing.Prepared, parameter: str) -> list[str]:
    """Return the nodes that a parameter names, and the products that ONNX Runtime makes of those that are a Gemm.

    It takes each Gemm apart into a MatMul and an Add, under names of its own, before it looks at what is chosen.
    """
    chosen = prepared.names[parameter]
    gemms = {node.name for node in prepared.model.graph.node if node.op_type == "Gemm"}
    return [*chosen, *(f"{name}_MatMul" for name in chosen if name in gemms)]


def _why_nothing(prepared: quantizing.Prepared, wanted: Parameters) -> str:
    model, op_types = prepared.model, prepared.op_types
    counts = onnx_graph.op_counts(model)
    if op_types and not any(op in counts for op in op_types):
        return f"NO-OP: nothing was quantized, since the model has no {' or '.join(op_types)}."
    if len(list(onnx_graph.graphs(model))) > 1 and not wanted.subgraphs:
        return "NO-OP: nothing was quantized; the weights lie in branches of If or Loop: set subgraphs = true."
    if counts.get("Constant") and not wanted.constants_to_initializers:
        return "NO-OP: nothing was quantized; the weights lie in Constant nodes: set constants_to_initializers = true."
    return (
        "NO-OP: nothing was quantized; no MatMul, Gemm, Conv, LSTM or Gather of the model has a constant float weight "
        "that the quantizer takes. Where weights are computed from constants, put preprocess before, which does that."
    )
