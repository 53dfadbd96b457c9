"""The ways to quantize that a search chooses from, each a small piece of data with a function that makes its model.

A scheme makes the whole model in its form, with the nodes that it is told to keep left in float. What it does to each
node in terms of the float model (``targets``) is what sensitivities are simulated with; a scheme without it is taken as
a whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from .. import optimize, to_float16
from .._models import model_file, onnx_graph
from . import node_noise, quantizer_guards, smoothing, weight_blocks
from .trial_bench import HEAVY_OPS, Bench

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from ortforge.api import PassJob

    Targets = Mapping[str, node_noise.Quantized]

__all__ = ["OPTIMIZED", "SCHEMES", "Scheme", "in_order", "optimized", "summary_of"]


def _always(bench: Bench) -> str:
    return ""


@dataclass(frozen=True)
class Scheme:
    """One way to quantize a model.

    :param make: from the bench and the nodes to keep in float, the model, or where it was written. A failure is a
        finding about the scheme.
    :param targets: what the whole model in this form (the second argument) does to each node; ``None``: no node can be
        kept, or nothing is known of it.
    :param base: the float model that ``targets`` speaks of, where that is not the bench's.
    :param parts: nodes in the order of the graph, where a scheme's noise comes from stretches of it rather than from
        single nodes: stretches are kept in float then.
    :param unfit: why it cannot be used for this model, or ``""``.
    :param kernels: what runs its products, where it shares that with other schemes: what is slow for one is for all.
    """

    name: str
    summary: str
    make: Callable[[Bench, Collection[str]], ModelProto | Path]
    targets: Callable[[Bench, ModelProto], Targets] | None = None
    base: Callable[[Bench], ModelProto] | None = None
    parts: Callable[[Bench], Sequence[str]] | None = None
    unfit: Callable[[Bench], str] = _always
    kernels: str = ""


# Static quantization


def _static(
    bench: Bench,
    kept: Collection[str],
    *,
    op_types: tuple[str, ...],
    per_channel: bool,
    wide: bool = False,
    smooth: bool = False,
    seven_bits: bool = False,
) -> ModelProto:
    """Quantize and dequantize around nodes: unsigned activations, signed weights, which is what x86 is quick with."""
    ops = list(op_types) or _all_static_ops()
    ranges = bench.ranges(ops, smooth=smooth)
    options: dict[str, Any] = {"UseQDQContribOps": True} if wide else {}
    if smooth:
        # What a product puts out has outliers again, and goes into an addition more often than into a product.
        options["OpTypesToExcludeOutputQuantization"] = ["MatMul", "Gemm"]
    model = bench.smoothed()[0] if smooth else bench.copy()
    try:
        return _qdq(model, kept, ops, per_channel, wide, ranges, options, seven_bits)
    except ValueError as problem:
        if "truth value of an array" not in str(problem):
            raise
        # ONNX Runtime compares a whole channel axis with one number when it widens scales for 32-bit biases.
        options["QDQDisableWeightAdjustForInt32Bias"] = True
        model = bench.smoothed()[0] if smooth else bench.copy()
        return _qdq(model, kept, ops, per_channel, wide, ranges, options, seven_bits)


def _qdq(
    model: ModelProto,
    kept: Collection[str],
    ops: list[str],
    per_channel: bool,
    wide: bool,
    ranges: Any,
    options: Any,
    seven_bits: bool,
) -> ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    activation = QuantType.QUInt16 if wide else QuantType.QUInt8
    left, guards = quantizer_guards.guard(model, kept, ops, "QDQ", per_channel)
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel,
            seven_bits,
            QuantType.QInt8,
            activation,
            ranges,
            [],
            left,
            ops,
            {**options, **guards},
        )
        quantizer.quantize_model()
    made: ModelProto = quantizer.model.model
    return made


def _all_static_ops() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QLinearOpsRegistry, *QDQRegistry})


def _static_targets(bench: Bench, made: ModelProto, *, op_types: tuple[str, ...] = ()) -> Targets:
    return node_noise.static_targets(made, op_types or _all_static_ops())


# Dynamic quantization


def _dynamic(
    bench: Bench,
    kept: Collection[str],
    *,
    signed: bool = True,
    per_channel: bool = False,
    smooth: bool = False,
    split: bool = False,
    seven_bits: bool = False,
) -> ModelProto:
    """Quantize weights now and activations while running."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    model = bench.smoothed(split=split)[0] if smooth else bench.copy()
    # ONNX Runtime makes a product and a sum of each Gemm, under names of its own, before it looks at what to keep.
    gemms = [node.name for node in model.graph.node if node.op_type == "Gemm" and node.name in kept]
    outliers = [node.name for node in model.graph.node if node.name.endswith(smoothing.OUTLIERS)]
    kept = [*kept, *(f"{name}_MatMul" for name in gemms), *outliers]
    options = {"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT}
    weight_type = QuantType.QInt8 if signed else QuantType.QUInt8
    mode, ops = QuantizationMode.IntegerOps, list(IntegerOpsRegistry)
    kept, _ = quantizer_guards.guard(model, kept, ops, "dynamic", per_channel)
    with _quiet():
        quantizer = ONNXQuantizer(
            model, per_channel, seven_bits, mode, False, weight_type, QuantType.QUInt8, None, [], kept, ops, options
        )
        quantizer.quantize_model()
    made: ModelProto = quantizer.model.model
    return made


def _dynamic_targets(
    bench: Bench, made: ModelProto, *, per_channel: bool = False, smooth: bool = False, split: bool = False
) -> Targets:
    base = bench.smoothed(split=split)[0] if smooth else bench.model
    left = {node.name for node in made.graph.node if node.op_type in node_noise.WEIGHT_INPUT}
    names = [node.name for node in base.graph.node if node.name not in left]
    return node_noise.dynamic_targets(base, names, per_channel=per_channel)


def _needs_seven_bits(bench: Bench) -> str:
    if bench.saturates:
        return _needs_weights(bench)
    return "no candidate is wrong on a CPU tier for sums that saturate"


def _needs_weights(bench: Bench) -> str:
    return "" if bench.heavy_nodes() else "the model has no multiplication with a constant weight outside of branches"


def _needs_matmul(bench: Bench) -> str:
    weights = {tensor.name for tensor in bench.model.graph.initializer}
    found = any(node.op_type == "MatMul" and node.input[1] in weights for node in bench.model.graph.node)
    return "" if found else "the model has no MatMul with a constant weight outside of branches"


def _needs_outliers(bench: Bench) -> str:
    if reason := _needs_matmul(bench):
        return reason
    return "" if bench.smoothed()[1] else "no activation has outliers that are worth moving into the weights"


def _needs_worse_outliers(bench: Bench) -> str:
    if reason := _needs_matmul(bench):
        return reason
    parted = any(entry["outliers"] for entry in bench.smoothed(split=True)[1])
    return "" if parted else "no activation has channels that are worth multiplying in float"


# Weights alone, and half precision


def _weights(bench: Bench, kept: Collection[str], *, bits: int, block: int) -> ModelProto:
    made = bench.copy()
    weight_blocks.to_blocks(made, [name for name in bench.heavy_nodes() if name not in kept], bits=bits, block=block)
    return made


def _weights_targets(bench: Bench, made: ModelProto, *, bits: int, block: int) -> Targets:
    return weight_blocks.targets(bench.model, bits=bits, block=block)


def _half(bench: Bench, kept: Collection[str]) -> ModelProto:
    """Do what the pass ``float16`` does, from the model as it came."""
    folder = bench.workdir / f"float16-{len(list(bench.workdir.glob('float16-*')))}"
    folder.mkdir()
    output = folder / "model.onnx"
    known = {node.name for node in onnx_graph.nodes(model_file.load(bench.source))}
    stays = tuple(name for name in kept if name in known)
    facts = {"ep": "cpu", "ep_name": "CPUExecutionProvider", "ep_options": {}}
    job: Any = SimpleNamespace(
        model=bench.source, output=output, workdir=folder, parameters={"node_block_list": stays}, **facts
    )
    with _quiet():
        to_float16.apply(job)
    return model_file.load(output)


def _half_parts(bench: Bench) -> list[str]:
    nodes = model_file.load(bench.source).graph.node
    return [node.name for node in nodes if node.name and node.op_type != "Constant"]


def _optimized(bench: Bench, kept: Collection[str], *, job: PassJob) -> Path:
    """Do what the pass ``optimize`` does at its highest level, from the model as it came."""
    folder = bench.workdir / "optimized"
    folder.mkdir()
    facts = {name: getattr(job, name) for name in ("ep", "ep_name", "ep_options", "ort_version", "cpu_flags")}
    changed: Any = SimpleNamespace(
        model=bench.source, output=folder / "model.onnx", workdir=folder, parameters={"level": "all"}, **facts
    )
    with _quiet():
        optimize.apply(changed)
    return folder / "model.onnx"


def optimized(job: PassJob) -> Scheme:
    """Return what is left when nothing can be quantized: the float model as a session would run it, which loads faster.

    It is as fast as the float model, and bound to this runtime, EP and processor by its stamp.
    """
    return Scheme(OPTIMIZED, summary_of(OPTIMIZED), partial(_optimized, job=job))


def summary_of(name: str) -> str:
    """Return what a scheme does, in a few words."""
    return SCHEMES[name].summary if name in SCHEMES else "the float model after ONNX Runtime's own optimizations"


def _quiet() -> Any:
    """Keep advice that ONNX Runtime's tools print and log out of the way."""
    import contextlib
    import io

    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.callback(logging.disable, logging.root.manager.disable)
    logging.disable(logging.WARNING)
    return stack


_EVERY: Final[tuple[str, ...]] = ()

_DYNAMIC: Final = "activations rounded while running"

SCHEMES: Final[Mapping[str, Scheme]] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "static-channel",
            "8-bit weights per channel and activations, ranges known ahead, all operators",
            partial(_static, op_types=_EVERY, per_channel=True),
            _static_targets,
        ),
        Scheme(
            "static",
            "8-bit weights and activations, ranges known ahead, all operators",
            partial(_static, op_types=_EVERY, per_channel=False),
            _static_targets,
        ),
        Scheme(
            "static-heavy",
            "8-bit weights per channel and activations, ranges known ahead, convolutions and multiplications only",
            partial(_static, op_types=HEAVY_OPS, per_channel=True),
            partial(_static_targets, op_types=HEAVY_OPS),
            unfit=_needs_weights,
        ),
        Scheme(
            "static-16",
            "static-heavy with 16-bit activations",
            partial(_static, op_types=HEAVY_OPS, per_channel=True, wide=True),
            partial(_static_targets, op_types=HEAVY_OPS),
            unfit=_needs_weights,
        ),
        Scheme(
            "static-smooth",
            "static-heavy after activations' outliers were moved into the weights, products put out as float",
            partial(_static, op_types=HEAVY_OPS, per_channel=True, smooth=True),
            partial(_static_targets, op_types=HEAVY_OPS),
            base=lambda bench: bench.smoothed()[0],
            unfit=_needs_outliers,
        ),
        Scheme(
            "dynamic-channel",
            "8-bit weights per channel, activations rounded while running",
            partial(_dynamic, per_channel=True),
            partial(_dynamic_targets, per_channel=True),
            unfit=_needs_weights,
            kernels=_DYNAMIC,
        ),
        Scheme(
            "dynamic-smooth",
            "dynamic-channel after activations' outliers were moved into the weights",
            partial(_dynamic, per_channel=True, smooth=True),
            partial(_dynamic_targets, per_channel=True, smooth=True),
            base=lambda bench: bench.smoothed()[0],
            unfit=_needs_outliers,
            kernels=_DYNAMIC,
        ),
        Scheme(
            "dynamic-split",
            "dynamic-smooth with the eight worst channels of an activation multiplied in float where that helps",
            partial(_dynamic, per_channel=True, smooth=True, split=True),
            partial(_dynamic_targets, per_channel=True, smooth=True, split=True),
            base=lambda bench: bench.smoothed(split=True)[0],
            unfit=_needs_worse_outliers,
            kernels=_DYNAMIC,
        ),
        Scheme(
            "dynamic",
            "8-bit weights, one scale for each, activations rounded while running",
            _dynamic,
            _dynamic_targets,
            unfit=_needs_weights,
            kernels=_DYNAMIC,
        ),
        Scheme(
            "dynamic-unsigned",
            "dynamic with unsigned weights, for which older runtimes have kernels of convolutions",
            partial(_dynamic, signed=False),
            _dynamic_targets,
            unfit=_needs_weights,
            kernels=_DYNAMIC,
        ),
        Scheme(
            "static-channel-7",
            "static-channel with 7-bit weights, whose sums cannot saturate on CPUs without VNNI",
            partial(_static, op_types=_EVERY, per_channel=True, seven_bits=True),
            _static_targets,
            unfit=_needs_seven_bits,
        ),
        Scheme(
            "static-heavy-7",
            "static-heavy with 7-bit weights, whose sums cannot saturate on CPUs without VNNI",
            partial(_static, op_types=HEAVY_OPS, per_channel=True, seven_bits=True),
            partial(_static_targets, op_types=HEAVY_OPS),
            unfit=_needs_seven_bits,
        ),
        Scheme(
            "dynamic-channel-7",
            "dynamic-channel with 7-bit weights, whose sums cannot saturate on CPUs without VNNI",
            partial(_dynamic, per_channel=True, seven_bits=True),
            partial(_dynamic_targets, per_channel=True),
            unfit=_needs_seven_bits,
            kernels=_DYNAMIC,
        ),
        Scheme(
            "weights-8",
            "weights alone in 8 bits, one scale for 128 of them",
            partial(_weights, bits=8, block=128),
            partial(_weights_targets, bits=8, block=128),
            unfit=_needs_matmul,
        ),
        Scheme(
            "weights-4",
            "weights alone in 4 bits, one scale for 32 of them",
            partial(_weights, bits=4, block=32),
            partial(_weights_targets, bits=4, block=32),
            unfit=_needs_matmul,
        ),
        Scheme("float16", "weights and computations in half precision", _half, parts=_half_parts),
    )
}
"""All schemes by name."""

OPTIMIZED: Final = "optimized"

_SEVEN_BITS: Final = ("static-channel-7", "static-heavy-7", "dynamic-channel-7")
"""Variants with 7-bit weights: tried only where a candidate is wrong on a required CPU tier."""

_CONVOLUTIONAL: Final = (
    "static-channel",
    "float16",
    "static-heavy",
    "static",
    "dynamic-unsigned",
    "dynamic",
    "dynamic-channel",
    "weights-8",
    "static-16",
    "weights-4",
    "static-smooth",
    "dynamic-smooth",
    "dynamic-split",
)
_MULTIPLYING: Final = (
    "static-heavy",
    "dynamic-split",
    "dynamic-smooth",
    "static-smooth",
    "dynamic-channel",
    "weights-8",
    "dynamic",
    "static-channel",
    "static",
    "float16",
    "dynamic-unsigned",
    "weights-4",
    "static-16",
)


_ON_GPU: Final = (
    "float16",
    "weights-8",
    "weights-4",
    "static-smooth",
    "static-channel",
    "static-heavy",
    "static",
    "dynamic-channel",
    "dynamic-smooth",
    "dynamic-split",
    "dynamic",
    "dynamic-unsigned",
    "static-16",
)
_GPU_EPS: Final = (
    "CUDA",
    "Dml",
    "MIGraphX",
    "NvTensorRTRTX",
    "ROCM",
    "Tensorrt",
    "WebGpu",
)
"""EPs that compute on a GPU, by what comes before ``ExecutionProvider``."""

_MULTIPLYING_ELSEWHERE: Final = (
    "static-smooth",
    "static-heavy",
    "static-16",
    "float16",
    "static-channel",
    "static",
    "weights-8",
    "weights-4",
    "dynamic-smooth",
    "dynamic-channel",
    "dynamic-split",
    "dynamic",
    "dynamic-unsigned",
)


def in_order(bench: Bench, ep_name: str, ep_options: Mapping[str, str]) -> list[Scheme]:
    """Return all schemes, those first that models of this kind most often gain by, in case the time runs out.

    Convolutions are quick with ranges known ahead; a convolution quantized while running is slower than in float
    everywhere it was measured. Transformers and recurrent models are the other way round: their activations vary with
    the input, and a matrix multiplication hides the cost of looking at them. That goes for the CPU EP, which has the
    kernels; other EPs are made for ranges known ahead. On a GPU it is half precision that gains: measured with the CUDA
    EP (docs/gpu.md), 8 bits run at a third to half of float's speed there, and 16-bit activations at a hundredth.
    """
    device = str(ep_options.get("device_type", ""))  # of OpenVINO's EP: GPU, GPU.1, GPU_FP16
    if ep_name.removesuffix("ExecutionProvider") in _GPU_EPS or device.upper().startswith("GPU"):
        return [SCHEMES[name] for name in (*_ON_GPU, *_SEVEN_BITS)]
    if bench.has("Conv", "ConvTranspose"):
        order = _CONVOLUTIONAL
    else:
        order = _MULTIPLYING if ep_name == "CPUExecutionProvider" else _MULTIPLYING_ELSEWHERE
    return [SCHEMES[name] for name in _with_seven_bits(order)]


def _with_seven_bits(order: Sequence[str]) -> list[str]:
    """Put each scheme with 7-bit weights behind the one that it varies."""
    return [made for name in order for made in (name, f"{name}-7") if made == name or made in _SEVEN_BITS]
