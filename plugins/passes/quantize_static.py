"""``quantize-static``: weights and activations to integers ahead of time, with ranges measured on calibration data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING or __package__:
    from . import _graph, _model_file, _quantizing
else:
    import _graph
    import _model_file
    import _quantizing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ortforge.api import Pass, PassJob, PassUse

FEW_SAMPLES: Final = 8
"""Below this, ranges depend on which samples happened to be taken."""

SYMMETRY: Final = {"symmetric": True, "asymmetric": False}

ExtraOption = bool | int | float | str


@dataclass(frozen=True)
class Parameters:
    """What ``quantize-static`` can be told."""

    format: Literal["QDQ", "QOperator"] = field(
        default="QDQ",
        metadata={"doc": "QDQ: pairs around float operators, which every EP reads; QOperator: integer operators"},
    )
    activation_type: Literal["QUInt8", "QInt8", "QUInt16", "QInt16"] = field(
        default="QUInt8", metadata={"doc": "type of the activations; on x86 QUInt8 is several times faster than QInt8"}
    )
    weight_type: Literal["QInt8", "QUInt8"] = field(default="QInt8", metadata={"doc": "type of the weights"})
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
    constants_to_initializers: bool = field(
        default=True,
        metadata={
            "doc": "move weights out of Constant nodes first: the quantizer looks for them among initializers only"
        },
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
    wanted: Parameters = use.parameters
    if "quantize" in use.before:
        return "the recipe has quantized the model already; quantize once, from the float model"
    if not use.has_calibration:
        return "it needs calibration data; give the model a calibration dataset"
    if wanted.calibrate_method == "Distribution":
        return "Distribution calibration is made for 8-bit floats; use MinMax, Entropy or Percentile"
    if wanted.activation_type == "QInt8" and wanted.weight_type == "QUInt8":
        return "ONNX Runtime has no kernels for QInt8 activations with QUInt8 weights; use weight_type = 'QInt8'"
    if wanted.format == "QOperator" and wanted.activation_type in ("QUInt16", "QInt16"):
        return "16-bit activations exist in the QDQ format only; use format = 'QDQ'"
    return ""


class Samples:
    """Calibration samples one at a time, in the form that ONNX Runtime's calibrators read.

    The calibrators keep what every sample gave until they are told to merge it. Asked for with a stride of one
    (``set_range``), they merge after each, so memory does not grow with the number of samples. ``read`` counts the
    samples taken; ``running`` is true while one is read or
    the model runs on it.
    """

    def __init__(self, feeds: Iterator[dict[str, Any]], count: int, inputs: set[str]) -> None:
        self._feeds = feeds
        self._count = count
        self._inputs = inputs
        self._left = 0
        self.running = False
        self._digests: set[bytes] = set()
        self.read = 0

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        """Allow the samples of one stride to be read."""
        self._left = end_index - start_index

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, or ``None`` at the end of the stride.

        :raises ValueError: it has other inputs than the model.
        """
        self.running = bool(self._left)
        if not self._left or (feed := next(self._feeds, None)) is None:
            self.running = False
            return None
        if missing := self._inputs - feed.keys():
            raise ValueError(
                f"Calibration sample {self.read} lacks the model's input {', '.join(sorted(missing))} "
                f"(it has {', '.join(sorted(feed))}). Give the dataset the model's input names."
            )
        self._left -= 1
        self.read += 1
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(feed):
            digest.update(name.encode() + feed[name].tobytes())
        self._digests.add(digest.digest())
        return {name: feed[name] for name in feed if name in self._inputs}

    def complaints(self) -> list[str]:
        """Say what is wrong with the data as calibration data."""
        if self.read > 1 and len(self._digests) == 1:
            return [f"All {self.read} calibration samples are identical, so the ranges are those of one input."]
        if self.read < FEW_SAMPLES:
            return [
                f"Only {self.read} calibration samples: ranges depend on which they are. Give {FEW_SAMPLES} or more."
            ]
        return []


class BiasScaleError(Exception):
    """ONNX Runtime's quantizer met a weight with a scale per channel where it expects a single one."""


def apply(job: PassJob) -> dict[str, Any]:
    """Calibrate and quantize ``job.model`` into ``job.output``.

    :raises ValueError: no calibration data, data that does not fit, or a model that is quantized already.
    :raises RuntimeError: the opset cannot be raised, calibration fails, or the result does not load.
    """
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    wanted = Parameters(**job.parameters)
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    if not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    prepared = _quantizing.prepare(
        source,
        workdir,
        constants=wanted.constants_to_initializers,
        least_opset=13 if wanted.per_channel else 11,
        why="quantization per channel" if wanted.per_channel else "static quantization",
        named={"nodes_to_exclude": wanted.nodes_to_exclude, "nodes_to_include": wanted.nodes_to_include},
        op_types=wanted.op_types,
        takes={*QLinearOpsRegistry, *QDQRegistry},
    )
    weights = {tensor.name for tensor in prepared.model.graph.initializer}
    inputs = {value.name for value in prepared.model.graph.input} - weights
    samples = Samples(job.feeds(), len(job.samples), inputs)
    masks = _quantizing.mask_constants(prepared.model)
    written = workdir / "quantized.onnx"
    adjusting = ""
    try:
        _quantize(wanted, prepared, samples, written)
    except BiasScaleError:
        # The quantizer widens the scales of weights whose bias would not fit into 32 bits, and compares a whole
        # channel axis with one number while doing so. Without that step the result is the usual one.
        adjusting = "Weight scales were not widened for 32-bit biases: ONNX Runtime fails at that for this model."
        samples = Samples(job.feeds(), len(job.samples), inputs)
        options = {**wanted.extra_options, "QDQDisableWeightAdjustForInt32Bias": True}
        _quantize(replace(wanted, extra_options=options), prepared, samples, written)
    model = _model_file.load(written)
    if not _graph.quantized_ops(model):
        what = " or ".join(prepared.op_types) or "operators that the quantizer takes"
        where = " outside the branches of If and Loop" if len(list(_graph.graphs(model))) > 1 else ""
        return _quantizing.unchanged(source, output, f"NO-OP: nothing was quantized; the model has no {what}{where}.")
    result = _quantizing.finish(
        source, model, output, prepared, advice="Put preprocess before this pass, or use format = 'QDQ'."
    )
    warnings = [*_quantizing.lint_scales(model, masks=masks), *samples.complaints()]
    warnings += [adjusting] if adjusting else []
    return {**result, "calibration_samples": samples.read, "warnings": warnings}


def _quantize(wanted: Parameters, prepared: _quantizing.Prepared, samples: Samples, written: Path) -> None:
    import onnxruntime.quantization as quantization

    options: dict[str, Any] = {"CalibStridedMinMax": 1, **wanted.extra_options}
    if wanted.activation_symmetry in SYMMETRY:
        options["ActivationSymmetric"] = SYMMETRY[wanted.activation_symmetry]
    if wanted.weight_symmetry in SYMMETRY:
        options["WeightSymmetric"] = SYMMETRY[wanted.weight_symmetry]
    if wanted.calibrate_method == "Percentile":
        options["CalibPercentile"] = wanted.percentile
    try:
        quantization.quantize_static(
            str(prepared.path),
            str(written),
            samples,
            quant_format=quantization.QuantFormat[wanted.format],
            op_types_to_quantize=prepared.op_types or None,
            per_channel=wanted.per_channel,
            reduce_range=wanted.reduce_range,
            activation_type=getattr(quantization.QuantType, wanted.activation_type),
            weight_type=getattr(quantization.QuantType, wanted.weight_type),
            nodes_to_quantize=prepared.names["nodes_to_include"] or None,
            nodes_to_exclude=prepared.names["nodes_to_exclude"] or None,
            use_external_data_format=_model_file.needs_external_data(prepared.model),
            calibrate_method=quantization.CalibrationMethod[wanted.calibrate_method],
            extra_options=options,
        )
    except ValueError as problem:
        if str(problem).startswith("Calibration sample"):
            raise
        already = "QDQDisableWeightAdjustForInt32Bias" in wanted.extra_options
        if "truth value of an array" in str(problem) and not samples.running and not already:
            raise BiasScaleError from problem
        raise _failed(problem, samples) from problem
    except Exception as problem:
        raise _failed(problem, samples) from problem


def _failed(problem: Exception, samples: Samples) -> RuntimeError:
    if "bins" in str(problem):
        return RuntimeError(
            f"A histogram of some tensor's values cannot be made ({_model_file.first_line(problem)}): the tensor has a "
            "constant or an infinite range, as masks have. Use calibrate_method = 'MinMax' or 'Entropy', or limit "
            "op_types."
        )
    if samples.running:
        return RuntimeError(
            f"Calibration stopped at sample {samples.read} of {len(samples)}: {_model_file.first_line(problem)} "
            "Check that the calibration data has the shapes and types of the model's inputs."
        )
    return RuntimeError(
        f"ONNX Runtime's quantizer failed: {_model_file.first_line(problem)} "
        "Put preprocess before this pass, or limit op_types (for example to Conv and MatMul)."
    )
