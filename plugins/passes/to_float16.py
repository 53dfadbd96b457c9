"""``float16``: weights and computations in half precision, for GPUs and for half the size.

The file is not called float16.py on purpose: its folder is on the module path where it runs, and
onnxruntime.transformers imports a module of its own under that name.
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._half import half_repairs, half_weights
from ._models import loading, model_file, onnx_graph, outlines, tensor_types

if TYPE_CHECKING:
    from onnx import ModelProto

    from ortforge.api import Pass, PassJob, PassUse


@dataclass(frozen=True)
class Parameters:
    """What ``float16`` can be told."""

    keep_io_types: bool = field(default=True, metadata={"doc": "inputs and outputs stay float32"})
    op_block_list: tuple[str, ...] = field(
        default=(),
        metadata={"doc": "operators that stay float32, by name or glob, beside those that have no float16 form"},
    )
    node_block_list: tuple[str, ...] = field(default=(), metadata={"doc": "nodes that stay float32, by name or glob"})
    min_positive_val: float = field(
        default=1e-7, metadata={"doc": "smaller weights become this, so that none turns into zero"}
    )
    mask_value: float = field(
        default=1e4,
        metadata={"doc": "what a mask's infinity (beyond 1e30) becomes: large, with room to add scores below 65504"},
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="float16",
            summary="weights and computations in half precision",
            parameters=Parameters,
            module=__file__,
            kind="convert",
            requires=("onnxconverter-common",),
            objection=_objection,
            example={"keep_io_types": True},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    if not 0 < wanted.mask_value <= half_weights.LARGEST_HALF:
        return (
            f"mask_value {wanted.mask_value:g} is not between 0 and {half_weights.LARGEST_HALF:g}, "
            "which is what float16 holds"
        )
    if not 0 <= wanted.min_positive_val < 1:
        return (
            f"min_positive_val {wanted.min_positive_val:g} is what the smallest weights become: give one from 0 to "
            "below 1, such as 1e-7"
        )
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Convert ``job.model`` to float16 in ``job.output``, with a second converter where the first one fails.

    :raises ValueError: the model cannot be read, is quantized, or lacks a named node.
    :raises RuntimeError: neither converter makes a model that loads.
    """
    wanted = Parameters(**job.parameters)
    source, output = Path(job.model), Path(job.output)
    apart = outlines.read(outlines.plain_source(source, Path(job.workdir)))
    if onnx_graph.quantized_ops(apart.model):
        raise ValueError("The model is quantized, and float16 would break its scales. Convert the float model instead.")
    wanted = replace(
        wanted,
        op_block_list=tuple(onnx_graph.op_types_of(apart.model, wanted.op_block_list, (), "op_block_list")),
        node_block_list=tuple(onnx_graph.names_of(apart.model, wanted.node_block_list, "node_block_list")),
    )
    if not _float32_tensors(apart.model):
        model_file.copy(source, output)
        return {"float16_weights": 0, "warnings": ["NO-OP: the model has no float32 weights to convert."]}
    said = converted(apart, wanted, output, job)
    return {**said, "bytes_before": model_file.size(source), "bytes_after": model_file.size(output), "warnings": []}


def converted(apart: outlines.Outline, wanted: Parameters, target: Path, job: PassJob) -> dict[str, Any]:
    """Write a model in half precision that loads, and return what is to be said of it; for passes that try several.

    :param wanted: the block lists hold names, no globs.
    :raises RuntimeError: neither converter makes a model that loads.
    """
    model = apart.model
    if any(node.domain not in (*onnx_graph.DEFAULT_DOMAINS, onnx_graph.CONTRIB_DOMAIN) for node in model.graph.node):
        apart = _with_types(apart, Path(job.workdir))
    prepared, masks, kept = _make_room(apart, wanted)
    kinds = {tensor.name: tensor.data_type for tensor in prepared.model.graph.initializer}
    weights = half_weights.Weights(prepared.weights, kinds, wanted.min_positive_val)
    failures: list[str] = []
    for name, convert in (
        ("onnxconverter_common", _by_converter_common),
        ("onnxruntime.transformers", _by_onnxruntime),
    ):
        try:
            made = convert(_copied(prepared.model), wanted, kept)
            half_repairs.pass_by_round_trips(made, model)
            if wanted.keep_io_types:
                half_repairs.restore_outputs(made, model)
            outlines.save(outlines.Outline(made, weights.of(made)), target, ir_version=model.ir_version)
        except Exception as problem:
            failures.append(f"{name}: {type(problem).__name__}: {model_file.first_line(problem)}")
            continue
        if problem_text := loading.load_error(target, job, kernels=False):
            failures.append(f"{name}: its model does not load: {problem_text}")
            continue
        return {
            "converter": name,
            "converters_failed": failures,
            "float16_weights": _float16_tensors(made),
            "float32_weights": _float32_tensors(made),
            "casts_added": onnx_graph.op_counts(made).get("Cast", 0) - onnx_graph.op_counts(model).get("Cast", 0),
            "nodes_kept_float32": kept,
            "masks_changed": masks,
            **onnx_graph.changed_types(model, made),
        }
    raise RuntimeError(
        f"The model cannot be converted to float16 as a whole. {' | '.join(failures)} | "
        "Keep the operators that are named in float32 with op_block_list."
    )


def _with_types(apart: outlines.Outline, workdir: Path) -> outlines.Outline:
    """Add the types that a session knows: the converters need those of what ai.onnx.ml's operators make."""
    whole = workdir / "untyped.onnx"
    outlines.save(apart, whole, ir_version=apart.model.ir_version)
    model = model_file.load(whole)
    tensor_types.infer(model, workdir / "typed.onnx")
    return outlines.taken_apart(model)


def _by_converter_common(model: ModelProto, wanted: Parameters, kept: list[str]) -> ModelProto:
    from onnxconverter_common import float16

    with python_warnings.catch_warnings():
        # It warns of every clipped weight without naming it; the names are in the result.
        python_warnings.simplefilter("ignore")
        return _convert(float16, model, wanted, kept)


def _by_onnxruntime(model: ModelProto, wanted: Parameters, kept: list[str]) -> ModelProto:
    from onnxruntime.transformers import float16

    return _convert(float16, model, wanted, kept)


def _convert(float16: Any, model: ModelProto, wanted: Parameters, kept: list[str]) -> ModelProto:
    """Call a converter: both are of one descent and take the same options."""
    with half_weights.by_shape(float16):
        made: ModelProto = float16.convert_float_to_float16(
            model,
            min_positive_val=wanted.min_positive_val,
            max_finite_val=half_weights.LARGEST_HALF,
            keep_io_types=wanted.keep_io_types,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *wanted.op_block_list],
            node_block_list=[*wanted.node_block_list, *kept],
        )
    return made


def _float32_tensors(model: ModelProto) -> int:
    return sum(1 for _ in onnx_graph.float_weights(model))


def _float16_tensors(model: ModelProto) -> int:
    from onnx import TensorProto

    return sum(tensor.data_type == TensorProto.FLOAT16 for tensor in model_file.tensors(model))


def _copied(model: ModelProto) -> ModelProto:
    from onnx import ModelProto as Model

    copied = Model()
    copied.CopyFrom(model)
    return copied


def _make_room(apart: outlines.Outline, wanted: Parameters) -> tuple[outlines.Outline, list[str], list[str]]:
    """Look after weights that float16 cannot hold, which the converters would clip without a word.

    A mask's infinity becomes ``mask_value``. Everything else (a running variance of 1e5 is one) stays exact, in nodes
    that stay float32. Returns the changed outline, the names of changed masks and of the nodes to keep.
    """
    import numpy as np
    from onnx import numpy_helper

    model = _copied(apart.model)
    onnx_graph.constants_to_initializers(model)
    onnx_graph.name_nodes(model)
    moved = outlines.taken_apart(model)
    made, weights = moved.model, {**apart.weights, **moved.weights}
    masks, outside = [], set()
    for tensor in list(onnx_graph.float_weights(made)):
        data = weights.get(tensor.name)
        values = numpy_helper.to_array(tensor) if data is None else np.frombuffer(data, "<f4")
        if not values.size or max(values.max(), -values.min()) <= half_weights.LARGEST_HALF:
            continue
        size = np.abs(values)
        infinite = size > onnx_graph.MASK_MAGNITUDE
        if bool(infinite.any()):
            values = np.where(infinite, np.copysign(np.float32(wanted.mask_value), values), values)
            if data is None:
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            else:
                weights[tensor.name] = memoryview(values.tobytes())
            masks.append(tensor.name)
        if bool(np.any((size > half_weights.LARGEST_HALF) & ~infinite)):
            outside.add(tensor.name)
    kept = [node.name for node in onnx_graph.nodes(made) if not outside.isdisjoint(node.input)]
    return outlines.Outline(made, weights), masks, kept
