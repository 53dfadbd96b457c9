"""``quantize``: int8 in the way that suits the model: dynamic for recurrent networks and transformers, static for CNNs.

The result says what the model was taken for and why; the work is that of quantize-dynamic and quantize-static.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from . import quantize_dynamic, quantize_static
from ._models import model_file, model_kind
from ._quantization import data_guards

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

ExtraOption = bool | int | float | str

CHOICES: Final = {
    "recurrent": (
        "dynamic",
        "most of its time goes into reading weights, which int8 makes four times smaller, and the ranges of its states "
        "depend on the input",
    ),
    "transformer": (
        "dynamic",
        "its time goes into large matrix products, beside which finding ranges while running costs little, and its "
        "activations have outliers that fixed ranges would have to hold",
    ),
    "convolutional": (
        "static",
        "its activations are large and its kernels small, so finding ranges while running would cost more than int8 "
        "saves (ConvInteger is slower than Conv in float)",
    ),
    "other": (
        "dynamic",
        "what it computes is matrix products, which find their ranges while running at little cost",
    ),
}


@dataclass(frozen=True)
class Parameters:
    """What ``quantize`` can be told: how to choose, and what both ways of quantizing share."""

    method: Literal["auto", "dynamic", "static"] = field(
        default="auto", metadata={"doc": "auto: dynamic for recurrent networks and transformers, static for CNNs"}
    )
    weight_type: Literal["QInt8", "QUInt8"] = field(default="QInt8", metadata={"doc": "type of the quantized weights"})
    per_channel: bool = field(
        default=True, metadata={"doc": "one weight scale per output channel; raises the opset to 13"}
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
    fix: bool = field(
        default=True, metadata={"doc": "when static: leave out the nodes whose ranges would ruin the model"}
    )
    subgraphs: bool = field(
        default=False, metadata={"doc": "when dynamic: quantize inside the branches of If, Loop and Scan too"}
    )
    extra_options: dict[str, ExtraOption] = field(
        default_factory=dict, metadata={"doc": "passed to onnxruntime.quantization as they are"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="quantize",
            summary="int8, dynamic or static, as suits the model; says which and why",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            needs_calibration=_wants_samples,
            objection=_objection,
            example={"method": "auto"},
        )
    ]


def _wants_samples(parameters: Parameters, has_calibration: bool) -> bool:
    """What the model is, is known when the pass runs: it gets samples if there are any that it may need."""
    return parameters.method == "static" or (parameters.method == "auto" and has_calibration)


def _objection(use: PassUse) -> str:
    if use.parameters.method == "static" and not use.has_calibration:
        return "method = 'static' needs calibration data; give the model a calibration dataset"
    if use.parameters.method == "static" and use.parameters.subgraphs:
        return "subgraphs is for dynamic quantization, and method is 'static'; use method = 'dynamic', or leave it out"
    if any(name.startswith("SmoothQuant") for name in use.parameters.extra_options):
        return "ONNX Runtime's SmoothQuant needs neural-compressor; use the passes smooth-quant and quantize-static"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Look at ``job.model``, choose, and quantize it into ``job.output``.

    :raises ValueError: it is a CNN and there is no calibration data; and as quantize-dynamic and quantize-static.
    :raises NotImplementedError: this runtime lacks a kernel for the result.
    :raises RuntimeError: the quantizer fails, or the result does not load.
    """
    wanted = Parameters(**job.parameters)
    found = model_kind.architecture(model_file.load(Path(job.model)))
    method, reason = CHOICES[found.kind]
    why = f"It is a {_article(found.kind)} ({found.evidence}): {reason}."
    if wanted.method != "auto":
        method, why = wanted.method, f"method = {wanted.method!r} asked for it. {why}"
    elif method == "static" and (not job.samples or data_guards.declared_random(job.samples)):
        raise ValueError(
            f"Static quantization suits this model, and there are no real calibration samples. {why} Give the model a "
            "calibration dataset, or write method = 'dynamic'."
        )
    shared = {
        name: getattr(wanted, name)
        for name in (
            "weight_type",
            "per_channel",
            "reduce_range",
            "op_types",
            "nodes_to_exclude",
            "nodes_to_include",
            "constants_to_initializers",
            "extra_options",
        )
    }
    if method == "static":
        result = quantize_static.quantize(job, quantize_static.Parameters(**shared, fix=wanted.fix))
    else:
        if not shared["op_types"] and wanted.method == "auto":
            shared["op_types"] = _dynamic_op_types()
        result = quantize_dynamic.quantize(job, quantize_dynamic.Parameters(**shared, subgraphs=wanted.subgraphs))
    return {"method": method, "model_kind": found.kind, "why": why, **result}


def _article(kind: str) -> str:
    return {"other": "network of matrix products", "transformer": "transformer"}.get(kind, f"{kind} network")


def _dynamic_op_types() -> tuple[str, ...]:
    """Return what the runtime quantizes dynamically, without Conv, which becomes slower by that."""
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    return tuple(sorted({*IntegerOpsRegistry} - {"Conv"}))
