"""``bfloat16``: products, and what stands between them, in the upper half of a float32, where the EP has kernels.

Own code: onnxconverter-common and ONNX Runtime's tools convert to float16 alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._half import bfloat16_graph
from ._models import loading, model_file, onnx_graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from ortforge.api import Pass, PassJob, PassUse

LEAST_OPSET: Final = 13
"""ONNX operator set from which products take bfloat16 (Conv from 22 on)."""

WITHOUT: Final[Mapping[str, str]] = {
    "cpu": "the CPU EP moves bfloat16 about and computes nothing in it (asked of 1.21.1, 1.23.2 and 1.32.0)",
    "xnnpack": "XNNPACK's EP has float32 and 8-bit kernels",
}


@dataclass(frozen=True)
class Parameters:
    """What ``bfloat16`` can be told."""

    op_block_list: tuple[str, ...] = field(default=(), metadata={"doc": "operators that stay float32, by name or glob"})
    node_block_list: tuple[str, ...] = field(default=(), metadata={"doc": "nodes that stay float32, by name or glob"})


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="bfloat16",
            summary="products in bfloat16, where the EP has kernels for it",
            parameters=Parameters,
            module=__file__,
            kind="convert",
            per_ep=True,
            objection=_objection,
            example={"op_block_list": ["Gemm"]},
        )
    ]


def _objection(use: PassUse) -> str:
    if reason := WITHOUT.get(use.ep):
        return f"it needs an EP that computes in bfloat16 (CUDA, TensorRT): {reason}"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Convert ``job.model`` into ``job.output``.

    :raises NotImplementedError: the EP has no bfloat16 kernel for the products of the model.
    :raises ValueError: the model cannot be read, is quantized, or lacks a named node.
    :raises RuntimeError: the opset cannot be raised, or the result does not load.
    """
    wanted = Parameters(**job.parameters)
    source, output = Path(job.model), Path(job.output)
    model = model_file.load(source)
    if model.functions:
        model = onnx_graph.without_functions(model)
    if onnx_graph.quantized_ops(model):
        raise ValueError(
            "The model is quantized, and bfloat16 would break its scales. Convert the float model instead."
        )
    blocked = onnx_graph.names_of(model, wanted.node_block_list, "node_block_list")
    counts = onnx_graph.op_counts(model)
    left = onnx_graph.op_types_of(model, wanted.op_block_list, (), "op_block_list")
    candidates = {op for op in bfloat16_graph.OPERATORS if counts.get(op) and op not in left}
    heavy = [op for op in bfloat16_graph.HEAVY if op in candidates]
    if not heavy or not any(True for _ in onnx_graph.float_weights(model)):
        model_file.copy(source, output)
        listed = ", ".join(bfloat16_graph.HEAVY)
        return {"nodes_converted": 0, "warnings": [f"NO-OP: the model has no float32 {listed} to convert."]}
    ir_version = model.ir_version
    model = onnx_graph.raise_opset(model, LEAST_OPSET, "bfloat16")
    able, refused = bfloat16_graph.kernels(candidates, onnx_graph.opset(model), job.ep_name, job.ep_options)
    if able.isdisjoint(heavy):
        raise NotImplementedError(
            f"{job.ep_name} of ONNX Runtime {job.ort_version} has no bfloat16 kernel for {', '.join(heavy)}: "
            f"{refused[heavy[0]]} Use float16, or a quantizing pass."
        )
    onnx_graph.constants_to_initializers(model)
    onnx_graph.name_nodes(model)
    done = bfloat16_graph.convert(model, able, blocked)
    model_file.save(model, output, ir_version=ir_version)
    if problem := loading.load_error(output, job):
        raise RuntimeError(
            f"The converted model does not load: {problem} Keep the operators that are named in float32 with "
            "op_block_list."
        )
    missing = {op: reason for op, reason in refused.items() if op in heavy}
    return {
        **done,
        "operators": sorted(able),
        "operators_without_kernel": refused,
        "float32_weights": _float32_weights(model),
        "bytes_before": model_file.size(source),
        "bytes_after": model_file.size(output),
        "warnings": [f"{op} stays float32: no bfloat16 kernel here ({reason})" for op, reason in missing.items()],
    }


def _float32_weights(model: ModelProto) -> int:
    return sum(1 for _ in onnx_graph.float_weights(model))
