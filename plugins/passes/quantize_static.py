"""``quantize-static``: weights and activations to integers ahead of time, with ranges measured on calibration data."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ._models import model_file, onnx_graph, self_check
from ._quantization import (
    bias_types,
    calibration,
    data_guards,
    extra_options,
    float8_types,
    quantizing,
    range_guards,
    remedies,
    scale_lint,
    type_support,
)

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

SYMMETRY: Final = {"symmetric": True, "asymmetric": False}

FLOAT8: Final = "QFLOAT8E4M3FN"
ENTROPY_BINS: Final = 1024
"""With the 128 of ONNX Runtime's calibrator there is one cut to choose from, which is the whole range: MinMax."""

OWN_OPTIONS: Final = frozenset(
    {
        "CalibMaxIntermediateOutputs",
        "CalibMovingAverage",
        "CalibMovingAverageConstant",
        "CalibStridedMinMax",
        "CalibTensorRangeSymmetric",
    }
)
"""Options of ONNX Runtime's calibrators, which are followed or, where they are about memory, need not be."""

ActivationType = Literal["QUInt8", "QInt8", "QUInt16", "QInt16", "QUInt4", "QInt4", "QFLOAT8E4M3FN"]
WeightType = Literal["QInt8", "QUInt8", "QInt16", "QUInt16", "QInt4", "QUInt4", "QFLOAT8E4M3FN"]
ExtraOption = bool | int | float | str


@dataclass(frozen=True)
class Parameters:
    """What ``quantize-static`` can be told."""

    format: Literal["QDQ", "QOperator"] = field(
        default="QDQ",
        metadata={"doc": "QDQ: pairs around float operators, which every EP reads; QOperator: integer operators"},
    )
    activation_type: ActivationType = field(
        default="QUInt8", metadata={"doc": "type of the activations; on x86 QUInt8 is several times faster than QInt8"}
    )
    weight_type: WeightType = field(
        default="QInt8", metadata={"doc": "type of the weights; others than 8 bits where the runtime has them"}
    )
    per_channel: bool = field(
        default=False, metadata={"doc": "one weight scale per output channel; raises the opset to 13"}
    )
    reduce_range: bool = field(
        default=False, metadata={"doc": "7-bit weights: for CPUs without VNNI, whose sums may overflow"}
    )
    calibrate_method: Literal["MinMax", "Entropy", "Percentile", "Distribution"] = field(
        default="MinMax", metadata={"doc": "how ranges are taken from the data; Distribution is for 8-bit floats"}
    )
    percentile: float = field(default=99.999, metadata={"doc": "share of values inside the range, for Percentile"})
    bins: int = field(default=0, metadata={"doc": "bins of the histograms; 0: 1024 for Entropy, 2048 for Percentile"})
    activation_symmetry: Literal["auto", "symmetric", "asymmetric"] = field(
        default="auto", metadata={"doc": "whether activation ranges are centred on zero; auto: no"}
    )
    weight_symmetry: Literal["auto", "symmetric", "asymmetric"] = field(
        default="auto", metadata={"doc": "whether weight ranges are centred on zero; auto: yes for signed types"}
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
    float_outputs: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "operators whose outputs stay float, e.g. MatMul: closer for transformers, and fused to one kernel"
        },
    )
    constants_to_initializers: bool = field(
        default=True,
        metadata={
            "doc": "move weights out of Constant nodes first: the quantizer looks for them among initializers only"
        },
    )
    fix: bool = field(
        default=False, metadata={"doc": "leave out the nodes whose ranges would ruin the model, such as masks'"}
    )
    extra_options: dict[str, ExtraOption] = field(
        default_factory=dict,
        metadata={"doc": "passed to onnxruntime.quantization as they are, e.g. QDQKeepRemovableActivations"},
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="quantize-static",
            summary="int8 weights and activations with ranges measured on calibration data",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            needs_calibration=True,
            objection=_objection,
            example={"format": "QDQ", "per_channel": True},
        )
    ]


def _objection(use: PassUse) -> str:
    if not use.has_calibration:
        return "it needs calibration data; give the model a calibration dataset"
    return contradiction(use.parameters)


def contradiction(wanted: Parameters) -> str:
    """Say which parameters cannot go together, whatever the runtime, or return ``""``."""
    activation, weight = wanted.activation_type, wanted.weight_type
    if FLOAT8 in (activation, weight) and activation != weight:
        return f"8-bit floats are for activations and weights alike; set both types to {FLOAT8!r}"
    if wanted.calibrate_method == "Distribution" and activation != FLOAT8:
        return "Distribution calibration is made for 8-bit floats; use MinMax, Entropy or Percentile"
    if activation == "QInt8" and weight == "QUInt8":
        return "ONNX Runtime has no kernels for QInt8 activations with QUInt8 weights; use weight_type = 'QInt8'"
    if wanted.format == "QOperator" and not {activation, weight} <= {"QInt8", "QUInt8"}:
        other = activation if activation not in ("QInt8", "QUInt8") else weight
        return f"{other} exists in the QDQ format only; use format = 'QDQ'"
    if wanted.format == "QOperator" and wanted.float_outputs:
        return "float_outputs is for the QDQ format; QOperator's operators put out integers"
    if wanted.reduce_range and weight not in ("QInt8", "QUInt8"):
        return f"reduce_range makes 7 bits of 8, and weight_type is {weight}; leave it out"
    if not 50 < wanted.percentile <= 100:
        return f"percentile is {wanted.percentile:g}; it is a share in per cent, such as 99.99"
    if wanted.bins and not 256 <= wanted.bins <= 65536:
        return f"bins is {wanted.bins}; give 256 to 65536, or 0 for the default"
    if wanted.percentile != Parameters.percentile and wanted.calibrate_method != "Percentile":
        return f"percentile goes with calibrate_method = 'Percentile', and it is {wanted.calibrate_method!r}"
    if wanted.bins and wanted.calibrate_method not in ("Entropy", "Percentile"):
        return f"bins are those of Entropy and Percentile, and calibrate_method is {wanted.calibrate_method!r}"
    return _of_extra_options(wanted)


def _of_extra_options(wanted: Parameters) -> str:
    if any(name.startswith("SmoothQuant") for name in wanted.extra_options):
        return "ONNX Runtime's SmoothQuant needs neural-compressor; put the pass smooth-quant before this one instead"
    if "CalibPercentile" in wanted.extra_options:
        return "CalibPercentile in extra_options is the parameter percentile here; set that"
    return ""


class BiasScaleError(Exception):
    """ONNX Runtime's quantizer met a weight with a scale per channel where it expects a single one."""


def apply(job: PassJob) -> dict[str, Any]:
    """Calibrate and quantize ``job.model`` into ``job.output``.

    :raises ValueError: no calibration data, data that does not fit, or a model that is quantized already.
    :raises NotImplementedError: the runtime lacks the types, or kernels for them.
    :raises RuntimeError: the opset cannot be raised, calibration fails, or the result does not load.
    """
    return quantize(job, Parameters(**job.parameters))


def quantize(job: PassJob, wanted: Parameters) -> dict[str, Any]:
    """Do what :func:`apply` does, with parameters of one's own: for passes that choose them."""
    changes: dict[str, dict[str, Any]] = {}
    if wanted.format == "QOperator":
        changes["format = 'QDQ'"] = {"format": "QDQ"}
    if set(wanted.op_types) != {"Conv", "MatMul"}:
        changes["op_types = ['Conv', 'MatMul']"] = {"op_types": ("Conv", "MatMul")}
    if wanted.per_channel:
        changes["per_channel = false"] = {"per_channel": False}
    return remedies.quantized(job, wanted, _quantize_model, changes)


def _quantize_model(job: PassJob, wanted: Parameters) -> dict[str, Any]:
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    if not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    if refused := contradiction(wanted):
        raise NotImplementedError(f"{refused[0].upper()}{refused[1:]}.")
    extra_options.refuse_unknown(wanted.extra_options, job.ort_version, also=OWN_OPTIONS)
    prepared = _prepare(source, workdir, wanted)
    if reason := quantizing.why_classical(prepared.model):
        return quantizing.unchanged(source, output, reason)
    type_support.refuse_types(wanted.activation_type, wanted.weight_type, wanted.format, workdir, job.ort_version)
    chosen = onnx_graph.op_types_of(prepared.model, wanted.float_outputs, _quantizable(), "float_outputs")
    wanted = replace(wanted, float_outputs=tuple(chosen))
    watch = data_guards.DataWatch()
    weights = {tensor.name for tensor in prepared.model.graph.initializer}
    inputs = {value.name for value in prepared.model.graph.input} - weights
    reader = calibration.SampleReader(job.feeds, len(job.samples), inputs, watch.see)
    op_types = prepared.op_types or sorted(_quantizable())
    ranges = calibration.measure(
        prepared.path,
        op_types,
        _method(wanted),
        reader,
        scratch=workdir / "augmented.onnx",
    )
    masks = scale_lint.mask_constants(prepared.model)
    absurd = range_guards.absurd_ranges(
        prepared.model,
        ranges,
        _chosen(prepared, op_types),
        levels=type_support.levels(wanted.activation_type),
        masks=masks,
    )
    excluded = sorted({name for one in absurd for name in one.nodes}) if wanted.fix else []
    warnings = [range_guards.sentence(absurd, masks, fixed=wanted.fix)] if absurd else []
    try:
        model, adjusting = _quantized(wanted, prepared, ranges, excluded, workdir / "quantized.onnx")
    except RuntimeError as problem:
        if wanted.fix or not absurd:
            raise
        # What the quantizer stumbles over may be what was found before; nobody has tried it without.
        raise remedies.QuantizerError(f"{problem} Before that, this was found: {warnings[0]}") from problem
    warnings += _repair(model, prepared, wanted)
    if not onnx_graph.quantized_ops(model):
        return quantizing.unchanged(source, output, " ".join([_why_nothing(prepared), *warnings]))
    result = quantizing.finish(job, model, prepared)
    checked, ruined = self_check.against_float(prepared.path, job, reader)
    named = {one.tensor for one in absurd}
    warnings += [*quantizing.said_of_dropped(result, job), *([ruined] if ruined else [])]
    warnings += scale_lint.lint_scales(model, masks=masks, known=named)
    random = data_guards.declared_random(job.samples)
    warnings += [random, *(text for text in watch.complaints() if not (random and text.startswith("RANDOM")))]
    if job.ep in ("", "cpu"):
        types = wanted.activation_type, wanted.weight_type
        warnings += type_support.x86_remarks(*types, reduce_range=wanted.reduce_range)
        if {*types} <= {"QInt8", "QUInt8"}:
            warnings += type_support.wrong_products(prepared.model, job.ort_version, job.cpu_flags)
    facts = {"calibration_samples": len(job.samples), "against_float": checked, "nodes_excluded": excluded}
    warnings += [adjusting, *prepared.notes, _batched_note(prepared, wanted)]
    return {**result, **facts, "warnings": [text for text in warnings if text]}


def _batched_note(prepared: quantizing.Prepared, wanted: Parameters) -> str:
    """Return a sentence about products whose constant has three axes or more, which have no kernel per channel."""
    if not prepared.per_tensor:
        return ""
    what = "stay in float" if wanted.format == "QOperator" else "have one scale for each weight as a whole"
    return (
        f"{len(prepared.per_tensor)} MatMul with a constant of three axes or more {what}: ONNX Runtime has no kernel "
        "for such products with a scale for each channel."
    )


def _prepare(source: Path, workdir: Path, wanted: Parameters) -> quantizing.Prepared:
    from onnxruntime.quantization import quant_utils

    least, why = 11, "static quantization"
    if wanted.per_channel:
        least, why = 13, "quantization per channel"
    if FLOAT8 in (wanted.activation_type, wanted.weight_type):
        least, why = 19, "quantization to 8-bit floats"
    sixteen = {"QInt16", "QUInt16"} & {wanted.activation_type, wanted.weight_type}
    # Later versions write ONNX's own 16-bit operators and raise the opset in the midst of their work; earlier ones
    # write com.microsoft's.
    raising = getattr(quant_utils, "update_opset_version", None)
    if sixteen and raising is not None and len(inspect.signature(raising).parameters) > 2:
        least, why = 21, "quantization to 16 bits"
    return quantizing.prepare(
        source,
        workdir,
        constants=wanted.constants_to_initializers,
        least_opset=least,
        why=why,
        named={"nodes_to_exclude": wanted.nodes_to_exclude, "nodes_to_include": wanted.nodes_to_include},
        op_types=wanted.op_types,
        takes=_quantizable(),
        name_nodes=wanted.fix or FLOAT8 in (wanted.activation_type, wanted.weight_type),
        per_channel=wanted.per_channel,
        quantizer=wanted.format,
    )


def _quantizable() -> set[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return {*QLinearOpsRegistry, *QDQRegistry}


def _chosen(prepared: quantizing.Prepared, op_types: Iterable[str]) -> set[str]:
    """Return the names of the nodes that would be quantized."""
    wanted = set(op_types)
    nodes = {node.name for node in prepared.model.graph.node if node.op_type in wanted and node.name}
    if prepared.names["nodes_to_include"]:
        nodes &= set(prepared.names["nodes_to_include"])
    return nodes - set(prepared.names["nodes_to_exclude"])


def _method(wanted: Parameters) -> calibration.Method:
    options, name = wanted.extra_options, wanted.calibrate_method
    smoothing = float(options.get("CalibMovingAverageConstant", 0.01)) if options.get("CalibMovingAverage") else 0.0
    return calibration.Method(
        name,
        percentile=wanted.percentile,
        bins=wanted.bins or (ENTROPY_BINS if name == "Entropy" else 2048),
        symmetric=bool(options.get("CalibTensorRangeSymmetric", name == "Percentile")),
        smoothing=smoothing,
    )


def _why_nothing(prepared: quantizing.Prepared) -> str:
    what = " or ".join(prepared.op_types) or "operators that the quantizer takes"
    where = " outside the branches of If and Loop" if len(list(onnx_graph.graphs(prepared.model))) > 1 else ""
    return f"NO-OP: nothing was quantized; the model has no {what}{where}."


def _repair(model: Any, prepared: quantizing.Prepared, wanted: Parameters) -> list[str]:
    """Mend what ONNX Runtime's quantizer does wrong with these types; return sentences about what cannot be."""
    if wanted.activation_type == FLOAT8:
        float8_types.shield_activations(model)
        float8_types.rescale_weights(model, prepared.model)
    biases = bias_types.cut_off(model, prepared.model)
    if biases and {"QInt8", "QUInt8"}.isdisjoint({wanted.activation_type, wanted.weight_type}):
        bias_types.widen(model, biases)
    elif biases:
        return [
            f"BIASES CUT OFF: {len(biases)} ({', '.join(sorted(biases)[:4])}) lie outside of 32 bits, since the scales "
            "of their inputs are tiny. Leave those nodes out with nodes_to_exclude, set per_channel = false, or use "
            "the QDQ format, where newer versions widen the scales."
        ]
    return []


def _quantized(
    wanted: Parameters,
    prepared: quantizing.Prepared,
    ranges: dict[str, calibration.Range],
    excluded: list[str],
    written: Path,
) -> tuple[Any, str]:
    """Return the quantized model, and a sentence if ONNX Runtime could not do a part of it."""
    try:
        _quantize(wanted, prepared, ranges, excluded, written)
        return model_file.load(written), ""
    except BiasScaleError:
        # The quantizer widens the scales of weights whose bias would not fit into 32 bits, and compares a whole
        # channel axis with one number while doing so. Without that step the result is the usual one.
        options = {**wanted.extra_options, "QDQDisableWeightAdjustForInt32Bias": True}
        _quantize(replace(wanted, extra_options=options), prepared, ranges, excluded, written)
        return model_file.load(written), (
            "Weight scales were not widened for 32-bit biases: ONNX Runtime fails at that for this model."
        )


def _options(wanted: Parameters) -> dict[str, Any]:
    """Return what ONNX Runtime's quantizer takes as extra options."""
    options: dict[str, Any] = {name: value for name, value in wanted.extra_options.items() if name not in OWN_OPTIONS}
    if wanted.activation_symmetry in SYMMETRY:
        options["ActivationSymmetric"] = SYMMETRY[wanted.activation_symmetry]
    if wanted.weight_symmetry in SYMMETRY:
        options["WeightSymmetric"] = SYMMETRY[wanted.weight_symmetry]
    if wanted.float_outputs:
        options["OpTypesToExcludeOutputQuantization"] = list(wanted.float_outputs)
    if wanted.activation_type == FLOAT8:
        # ONNX Runtime takes Relu and Clip out, since a zero point cuts values off as they do. 8-bit floats have none.
        options.setdefault("QDQKeepRemovableActivations", True)
        # A bias in 8-bit floats, with the product of two scales for its own, lies outside of what they hold.
        options.setdefault("QuantizeBias", False)
    return options


def _overrides(prepared: quantizing.Prepared, wanted: Parameters) -> dict[str, Any]:
    """Return the quantizer's option that gives batched weights one scale; the QDQ format alone has it."""
    from onnxruntime.quantization import QuantType

    if not prepared.per_tensor or wanted.format != "QDQ":
        return {}
    batched = {node.input[1] for node in prepared.model.graph.node if node.name in prepared.per_tensor}
    kind = QuantType[wanted.weight_type]
    return {"TensorQuantOverrides": {name: [{"quant_type": kind}] for name in sorted(batched)}}


def _quantize(
    wanted: Parameters,
    prepared: quantizing.Prepared,
    ranges: dict[str, calibration.Range],
    excluded: list[str],
    written: Path,
) -> None:
    import onnxruntime.quantization as quantization

    float8 = wanted.activation_type == FLOAT8
    left_out = [
        *prepared.names["nodes_to_exclude"],
        *excluded,
        *(prepared.per_tensor if wanted.format == "QOperator" else ()),
        *(float8_types.left_out(prepared.model) if float8 else ()),
    ]
    # ONNX Runtime insists on this method for 8-bit floats; the ranges are ours all the same.
    method = "Distribution" if float8 else wanted.calibrate_method
    try:
        with calibration.given(ranges, method, float8=float8):
            quantization.quantize_static(
                str(prepared.path),
                str(written),
                calibration.SampleReader(list, 0, ()),
                quant_format=quantization.QuantFormat[wanted.format],
                op_types_to_quantize=prepared.op_types or None,
                per_channel=wanted.per_channel,
                reduce_range=wanted.reduce_range,
                activation_type=quantization.QuantType[wanted.activation_type],
                weight_type=quantization.QuantType[wanted.weight_type],
                nodes_to_quantize=prepared.names["nodes_to_include"] or None,
                nodes_to_exclude=left_out or None,
                use_external_data_format=model_file.needs_external_data(prepared.model),
                calibrate_method=quantization.CalibrationMethod[method],
                extra_options=_options(wanted) | _overrides(prepared, wanted),
            )
    except Exception as problem:
        already = "QDQDisableWeightAdjustForInt32Bias" in wanted.extra_options
        many = isinstance(problem, ValueError) and "truth value of an array" in str(problem)
        if many and not already and wanted.format == "QDQ":
            raise BiasScaleError from problem
        # Only the QDQ format has a switch for the step that fails.
        if wanted.format == "QOperator" and wanted.per_channel and (many or "could not be broadcast" in str(problem)):
            raise NotImplementedError(
                "A bias of two axes, or one beside small scales, needs other scales of weights, and this version's "
                f"quantizer fails at that per channel in the QOperator format ({model_file.first_line(problem)}). "
                "Use format = 'QDQ', or per_channel = false."
            ) from problem
        raise remedies.QuantizerError(
            f"ONNX Runtime's quantizer failed: {model_file.first_sentence(problem)}"
        ) from problem
