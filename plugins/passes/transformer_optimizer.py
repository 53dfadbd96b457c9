"""``transformer-optimizer``: attention, normalization and GELU fused by ONNX Runtime's transformer scripts.

Those scripts know the graphs of certain exporters by their patterns. A pattern that is not found changes nothing and
says nothing; this pass counts, and says it. torch is not needed: the one step that imports it (ONNX Runtime's own
optimizations before the fusions) is done here with a session. Parameters have the names of the options of
onnxruntime/transformers/optimizer.py, and their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._models import loading, model_file, onnx_graph, ort_graph, outlines
from ._transformers import attention_nodes, fusion, objections
from ._transformers.fusion_complaints import Attempt, complaints
from ._transformers.model_types import LEVEL_NAMES, MODEL_TYPES, PROVIDERS

if TYPE_CHECKING:
    from onnx import ModelProto

    from ortforge.api import Pass, PassJob


def _switch(doc: str) -> Any:
    return field(default=False, metadata={"doc": doc})


@dataclass(frozen=True)
class Parameters:
    """What ``transformer-optimizer`` can be told."""

    model_type: Literal[
        "bart", "bert", "bert_keras", "bert_tf", "clip", "conformer", "gpt2", "gpt2_tf", "gpt_neox", "mmdit", "phi",
        "qwen3", "sam2", "swin", "t5", "tnlr", "unet", "vae", "vit",
    ] = field(default="bert", metadata={"doc": "the architecture whose patterns to look for"})  # fmt: skip
    num_heads: int = field(default=0, metadata={"doc": "attention heads; 0: read from the graph"})
    hidden_size: int = field(default=0, metadata={"doc": "width of all heads together; 0: read from the graph"})
    opt_level: Literal[0, 1, 2, 3, 99] | None = field(
        default=None,
        metadata={
            "doc": "ONNX Runtime's own optimizations before the fusions: 0 none, 1 basic, 2 extended, 3 layout, "
            "99 all; left out: as ONNX Runtime has it for the model type (1 for most)"
        },
    )
    only_onnxruntime: bool = _switch("those optimizations alone, and no fusions")
    use_gpu: bool = _switch("make those optimizations with the cell's EP, which must be a GPU's")
    provider: Literal["", "cuda", "dml", "migraphx", "tensorrt"] = field(
        default="", metadata={"doc": "with use_gpu: the EP that the model is meant for, as a check"}
    )
    input_int32: bool = _switch("integer inputs become int32: no casts before an embedding")
    float16: bool = _switch("convert to float16 after the fusions (for GPUs)")
    keep_io_types: bool = field(default=True, metadata={"doc": "with float16: inputs and outputs stay float32"})
    disable_attention: bool = _switch("leave attention as it is")
    disable_layer_norm: bool = _switch("leave layer normalization as it is")
    disable_skip_layer_norm: bool = _switch("leave the addition before layer normalization as it is")
    disable_bias_skip_layer_norm: bool = _switch("leave the bias before that addition as it is")
    disable_embed_layer_norm: bool = _switch("leave embeddings and their normalization as they are")
    disable_gelu: bool = _switch("leave GELU as it is")
    disable_bias_gelu: bool = _switch("leave the bias before GELU as it is")
    disable_rotary_embeddings: bool = _switch("leave rotary embeddings as they are")
    disable_shape_inference: bool = _switch("no symbolic shape inference in the fusions")
    enable_gelu_approximation: bool = _switch("replace GELU by FastGelu: quicker, not the same values")
    enable_gemm_fast_gelu: bool = _switch("fuse MatMul and FastGelu (ROCm has the kernel)")
    use_multi_head_attention: bool = _switch("make MultiHeadAttention instead of Attention")
    use_mask_index: bool = _switch("attention's mask as a length: needs padding on the right (default for bert)")
    use_raw_attention_mask: bool = _switch("attention's mask as it is: right for any padding")
    no_attention_mask: bool = _switch("drop the mask: for full sequences alone")
    disable_group_norm: bool = _switch("leave group normalization as it is (unet, vae, clip)")
    disable_skip_group_norm: bool = _switch("leave the addition before it as it is (unet, vae, clip)")
    disable_packed_kv: bool = _switch("no packed keys and values in cross attention (unet, vae, clip)")
    disable_packed_qkv: bool = _switch("no packed projections in self attention (unet, vae, clip)")
    disable_bias_add: bool = _switch("leave additions of a bias and a residual as they are (unet, vae, clip)")
    disable_bias_splitgelu: bool = _switch("leave split GELU as it is (unet, vae, clip)")
    disable_nhwc_conv: bool = _switch("leave convolutions as they are (unet, vae, clip)")
    use_group_norm_channels_first: bool = _switch("group normalization in NCHW (unet, vae, clip)")
    convert_to_packing_mode: bool = _switch("no computing on padding: PackedAttention, which CUDA alone has (bert)")
    disable_symbolic_shape_infer: bool = _switch("with convert_to_packing_mode: no symbolic shape inference")
    use_external_data_format: bool = _switch("weights in a file beside the model (above 1.9 GB they always are)")
    convert_attribute: bool = _switch("with external data: tensors in attributes go there, too")
    verbose: bool = _switch("write what the patterns met into the step's log")

    @property
    def level(self) -> int:
        """The level of ONNX Runtime's own optimizations that is in force."""
        return MODEL_TYPES[self.model_type].opt_level if self.opt_level is None else self.opt_level


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="transformer-optimizer",
            summary="attention, normalization and GELU of transformers fused into single operators",
            parameters=Parameters,
            module=__file__,
            kind="optimize",
            requires=("sympy",),
            per_ep=lambda wanted: wanted.level > 1 or wanted.use_gpu,
            objection=objections.objection,
            example={"model_type": "bert", "num_heads": 12, "hidden_size": 768},
        )
    ]


def apply(job: PassJob) -> dict[str, Any]:
    """Fuse what the patterns of ``model_type`` find in ``job.model``; write ``job.output``.

    :raises ValueError: the model cannot be read, or a parameter contradicts it.
    :raises NotImplementedError: the runtime lacks the model type, the level or the EP.
    :raises RuntimeError: the scripts fail on this graph, or the result does not load.
    """
    wanted = Parameters(**job.parameters)
    source, output = Path(job.model), Path(job.output)
    _check_runtime(job, wanted)
    plain = outlines.plain_source(source, Path(job.workdir))
    before = outlines.outline_of(plain)
    heads = _heads(wanted, before)
    _check_inputs(wanted, before)
    start = _optimized(job, wanted, plain, before)
    fused, hints = _fused(start, wanted, heads, before)
    counts = attention_nodes.fused_since(before, fused)
    warnings: list[str] = []
    if not wanted.only_onnxruntime:
        attempt = Attempt(asdict(wanted), wanted.level, plain, start, Path(job.workdir), before, heads)
        warnings = complaints(attempt, counts, fused)
    result: dict[str, Any] = {"fused": counts, "num_heads": heads.num_heads, "hidden_size": heads.hidden_size}
    if hints:
        result["onnxruntime_said"] = list(hints)
    changes = wanted.only_onnxruntime or wanted.float16 or wanted.input_int32 or wanted.use_external_data_format
    if not any(counts.values()) and not changes:
        model_file.copy(source, output)
        why = "NO-OP: no pattern was found, so the model was left as it was."
        return {**result, "warnings": [why, *warnings]}
    warnings += _keep_inputs(before, fused)
    stamp = _stamp(job, wanted, before)
    if stamp:
        ort_graph.put_stamp(fused, stamp)
        result["stamp"] = stamp
    result |= onnx_graph.changed_types(before, fused)
    _save(fused, output, wanted, ir_version=before.ir_version)
    if problem := loading.load_error(output, job, kernels=False):
        raise RuntimeError(
            f"The fused model does not load: {problem} Check model_type, num_heads and hidden_size, or switch off the "
            "fusion that it names."
        )
    return {
        **result,
        "nodes_before": len(list(onnx_graph.nodes(before))),
        "nodes_after": len(list(onnx_graph.nodes(fused))),
        "bytes_before": model_file.size(source),
        "bytes_after": model_file.size(output),
        "warnings": warnings,
    }


def _check_runtime(job: PassJob, wanted: Parameters) -> None:
    """Refuse what the installed ONNX Runtime does not have, where the plan could not know its version.

    :raises NotImplementedError: the model type, the level or the EP is not there.
    """
    import onnxruntime

    known = fusion.known_types()
    if wanted.model_type not in known:
        since = ".".join(map(str, MODEL_TYPES[wanted.model_type].since))
        raise NotImplementedError(
            f"ONNX Runtime {job.ort_version} does not know model_type {wanted.model_type!r}: it is there since "
            f"{since}. This one knows {', '.join(sorted(known))}."
        )
    if wanted.level == 3 and not hasattr(onnxruntime.GraphOptimizationLevel, "ORT_ENABLE_LAYOUT"):
        since = ".".join(map(str, ort_graph.LAYOUT_SINCE))
        raise NotImplementedError(
            f"ONNX Runtime {job.ort_version} has no level 3 (layout): it is there since {since}. Use opt_level = 99."
        )
    if wanted.use_gpu and job.ep_name not in onnxruntime.get_available_providers():
        raise NotImplementedError(
            f"use_gpu needs {job.ep_name}, and this ONNX Runtime has "
            f"{', '.join(onnxruntime.get_available_providers())}."
        )


def _heads(wanted: Parameters, model: ModelProto) -> attention_nodes.Heads:
    """Return the heads to use: as given, or as the graph has them when all of its attention has the same.

    :raises ValueError: what is given contradicts the graph.
    """
    found = attention_nodes.heads_in(model)
    given = attention_nodes.Heads(wanted.num_heads, wanted.hidden_size)
    if not wanted.num_heads:
        return found[0] if len(found) == 1 else given
    if len(found) == 1 and found[0] != given:
        raise ValueError(
            f"num_heads = {given.num_heads} and hidden_size = {given.hidden_size} were given, and the graph splits its "
            f"projections into {found[0].num_heads} heads, {found[0].hidden_size} wide together. "
            "Leave both out: they are read from the graph."
        )
    return given


def _check_inputs(wanted: Parameters, model: ModelProto) -> None:
    """Refuse ``input_int32`` for inputs that are no integers: the scripts turn those into integers as well.

    :raises ValueError: there is one.
    """
    from onnx import TensorProto

    whole = (TensorProto.INT32, TensorProto.INT64)
    other = [value.name for value in model.graph.input if value.type.tensor_type.elem_type not in whole]
    if wanted.input_int32 and other:
        raise ValueError(
            f"input_int32 makes every input an int32, and {', '.join(other)} holds no integers: its values would be "
            "cut off. Leave input_int32 out."
        )


def _optimized(job: PassJob, wanted: Parameters, source: Path, model: ModelProto) -> Path:
    """Return the file that the fusions start from: ``source``, or what ONNX Runtime's own optimizations make of it."""
    if not wanted.level:
        return source
    cpu = ("CPUExecutionProvider", dict[str, str]())
    providers = [(job.ep_name, dict(job.ep_options)), cpu] if wanted.use_gpu else [cpu]
    level = LEVEL_NAMES[wanted.level]
    # A session leaves references to the source's own files in what it writes, unless it is told of another one.
    split = model_file.needs_external_data(model) or model_file.has_external_data(source)
    saved = Path(job.workdir) / "optimized.onnx"
    arguments: dict[str, Any] = {"level": level, "only": wanted.only_onnxruntime, "split": split}
    fusion.optimized_first(source, saved, providers=providers, **arguments)
    if wanted.use_gpu and level == "basic" and ort_graph.holds_device_copies(saved):
        # Copies between devices are no part of what "basic" promises, and hide the patterns.
        fusion.optimized_first(source, saved, providers=[cpu], **arguments)
    return saved


def _fused(
    start: Path, wanted: Parameters, heads: attention_nodes.Heads, before: ModelProto
) -> tuple[ModelProto, Iterable[str]]:
    if wanted.only_onnxruntime:
        return model_file.load(start), ()
    try:
        made = fusion.fuse_what_works(start, asdict(wanted), num_heads=heads.num_heads, hidden_size=heads.hidden_size)
    except RuntimeError as problem:
        if not attention_nodes.dynamo_exported(before):
            raise
        raise RuntimeError(
            f"{problem} More likely: torch's dynamo exporter wrote the model, whose graphs the scripts do not know. "
            "Export with dynamo=False and attn_implementation='eager'."
        ) from problem
    # The scripts forget what branches read when they remove and order nodes; a decoder in an If ends up invalid by it.
    if onnx_graph.unmade(made.model):
        onnx_graph.restore(made.model, model_file.load(start))
    onnx_graph.sort_nodes(made.model)
    return made.model, [*made.hints, *_of_left_out(made)]


def _of_left_out(made: fusion.Fused) -> list[str]:
    if not made.left_out:
        return []
    option, why = made.left_out
    return [f"A fusion of ONNX Runtime fails on this model and was left out, as {option} = true does: {why}"]


def _keep_inputs(before: ModelProto, fused: ModelProto) -> list[str]:
    """Put back inputs that the scripts dropped with their last reader, so that who calls the model need not change."""
    there = {value.name for value in fused.graph.input}
    lost = [value for value in before.graph.input if value.name not in there]
    read_by_branches = onnx_graph.unmade(fused) if lost else set()
    fused.graph.input.extend(lost)
    names = ", ".join(value.name for value in lost if value.name not in read_by_branches)
    return [f"Nothing reads the input {names} any more: right for full sequences alone."] if names else []


def _stamp(job: PassJob, wanted: Parameters, before: ModelProto) -> dict[str, Any]:
    """Return the conditions that ONNX Runtime's own optimizations put on the model; basic ones put none."""
    if wanted.level <= 1:
        return {}
    ep = (PROVIDERS.get(wanted.provider) or job.ep) if wanted.use_gpu else "cpu"
    return ort_graph.stricter(ort_graph.stamp_in(before), ort_graph.stamp_of(job, LEVEL_NAMES[wanted.level], ep))


def _save(model: ModelProto, output: Path, wanted: Parameters, *, ir_version: int) -> None:
    if wanted.use_external_data_format:
        model_file.save_beside(model, output, ir_version=ir_version, convert_attribute=wanted.convert_attribute)
    else:
        model_file.save(model, output, ir_version=ir_version)
