"""``quantize-tensorrt``: QDQ in the form that TensorRT makes int8 engines of.

TensorRT wants zero points of 0 (symmetric, signed ranges), one scale per activation tensor, one per output channel of a
weight, and biases in float, which it adds in float itself: NVIDIA's documentation of explicit quantization, and ONNX
Runtime's end-to-end examples for TensorRT. The work is that of quantize-static.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from . import quantize_static

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

OPERATORS: Final = ("Add", "AveragePool", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool")
"""What TensorRT has int8 kernels for, of the operators that ONNX Runtime's quantizer takes."""


@dataclass(frozen=True)
class Parameters:
    """What ``quantize-tensorrt`` can be told."""

    op_types: tuple[str, ...] = field(
        default=OPERATORS, metadata={"doc": "operators to quantize, by name or glob; default: those with int8 kernels"}
    )
    per_channel: bool = field(default=True, metadata={"doc": "one weight scale per output channel"})
    dedicated_pairs: bool = field(
        default=True, metadata={"doc": "a QDQ pair of its own for each user of a tensor, which TensorRT fuses better"}
    )
    calibrate_method: Literal["MinMax", "Entropy", "Percentile"] = field(
        default="Entropy", metadata={"doc": "how ranges are taken from the data"}
    )
    percentile: float = field(default=99.999, metadata={"doc": "share of values inside the range, for Percentile"})
    nodes_to_exclude: tuple[str, ...] = field(
        default=(), metadata={"doc": "nodes that stay float, by name or glob, e.g. a detector's last layers"}
    )
    fix: bool = field(
        default=False, metadata={"doc": "leave out the nodes whose ranges would ruin the model, such as masks'"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="quantize-tensorrt",
            summary="QDQ as TensorRT wants it: symmetric, weights per channel, biases in float",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            needs_calibration=True,
            objection=_objection,
            example={"calibrate_method": "Entropy"},
        )
    ]


def _objection(use: PassUse) -> str:
    if not use.has_calibration:
        return "it needs calibration data; give the model a calibration dataset"
    return quantize_static.contradiction(static(use.parameters))


def static(wanted: Parameters) -> quantize_static.Parameters:
    """Return what quantize-static is to be told."""
    return quantize_static.Parameters(
        format="QDQ",
        activation_type="QInt8",
        weight_type="QInt8",
        activation_symmetry="symmetric",
        weight_symmetry="symmetric",
        per_channel=wanted.per_channel,
        calibrate_method=wanted.calibrate_method,
        percentile=wanted.percentile,
        op_types=wanted.op_types,
        nodes_to_exclude=wanted.nodes_to_exclude,
        fix=wanted.fix,
        extra_options={"QuantizeBias": False, "DedicatedQDQPair": wanted.dedicated_pairs},
    )


def apply(job: PassJob) -> dict[str, Any]:
    """Calibrate and quantize ``job.model`` into ``job.output``; raises what ``quantize-static`` raises.

    On a CPU such a model is right and slow. What quantize-static says of that names a parameter which is not here.
    """
    wanted = Parameters(**job.parameters)
    done = quantize_static.quantize(job, static(wanted))
    if job.ep != "tensorrt":
        note = (
            f"This QDQ form is TensorRT's, with int8 activations: the EP {job.ep} shows whether the model is right, "
            "not how fast it is. For a model that is to ship there, quantize-static's own form is usually faster."
        )
        done = {**done, "warnings": [*(text for text in done["warnings"] if not text.startswith("S8S8 ")), note]}
    return done
