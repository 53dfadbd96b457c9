"""``transformer-optimizer``: attention, normalization and GELU fused by ONNX Runtime's transformer scripts.

Those scripts know the graphs of certain exporters by their patterns. A pattern that is not found changes nothing and
says nothing; this pass counts, and says it. torch is not needed: the one step that imports it (ONNX Runtime's own
optimizations before the fusions) is done here with a session.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING or __package__:
    from . import _graph, _model_file
else:
    import _graph
    import _model_file

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

ATTENTION: Final = (
    "Attention",
    "DecoderMaskedMultiHeadAttention",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "PackedAttention",
)
FUSED: Final = frozenset(
    {
        *ATTENTION,
        "BiasAdd",
        "BiasGelu",
        "BiasSplitGelu",
        "EmbedLayerNormalization",
        "FastGelu",
        "Gelu",
        "GemmFastGelu",
        "GroupNorm",
        "LayerNormalization",
        "NhwcConv",
        "QuickGelu",
        "RMSNormalization",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
"""Operators that the fusions make."""

WITHOUT_ATTENTION_FUSION: Final = frozenset({"vae"})
ALWAYS_NEEDS_HEADS: Final = frozenset({"bert_keras", "bert_tf", "gpt2", "gpt2_tf", "gpt_neox", "phi", "tnlr", "vit"})

FUSION_SWITCHES: Final = (
    "attention",
    "bias_gelu",
    "bias_skip_layer_norm",
    "embed_layer_norm",
    "gelu",
    "layer_norm",
    "rotary_embeddings",
    "skip_layer_norm",
)


@dataclass(frozen=True)
class Parameters:
    """What ``transformer-optimizer`` can be told."""

    model_type: Literal[
        "bart", "bert", "bert_keras", "bert_tf", "clip", "conformer", "gpt2", "gpt2_tf", "gpt_neox", "mmdit", "phi",
        "sam2", "swin", "t5", "tnlr", "unet", "vae", "vit",
    ] = field(default="bert", metadata={"doc": "the architecture whose patterns to look for"})  # fmt: skip
    num_heads: int = field(default=0, metadata={"doc": "attention heads; 0: detect (works on few exports)"})
    hidden_size: int = field(default=0, metadata={"doc": "hidden size; 0: detect (works on few exports)"})
    opt_level: Literal[0, 1] = field(
        default=0, metadata={"doc": "1: ONNX Runtime's basic optimizations before the fusions"}
    )
    float16: bool = field(default=False, metadata={"doc": "convert to float16 after the fusions (for GPUs)"})
    keep_io_types: bool = field(default=True, metadata={"doc": "with float16: inputs and outputs stay float32"})
    attention: bool = field(default=True, metadata={"doc": "fuse attention"})
    multi_head_attention: bool = field(default=False, metadata={"doc": "make MultiHeadAttention instead of Attention"})
    layer_norm: bool = field(default=True, metadata={"doc": "fuse layer normalization"})
    skip_layer_norm: bool = field(default=True, metadata={"doc": "fuse the addition before it as well"})
    bias_skip_layer_norm: bool = field(default=True, metadata={"doc": "and the bias before that"})
    embed_layer_norm: bool = field(default=True, metadata={"doc": "fuse embeddings with their normalization"})
    gelu: bool = field(default=True, metadata={"doc": "fuse GELU"})
    bias_gelu: bool = field(default=True, metadata={"doc": "fuse the bias before it as well"})
    gelu_approximation: bool = field(
        default=False, metadata={"doc": "replace GELU by FastGelu: quicker, not the same values"}
    )
    rotary_embeddings: bool = field(default=True, metadata={"doc": "fuse rotary embeddings"})
    attention_mask: Literal["auto", "index", "raw", "none"] = field(
        default="auto", metadata={"doc": "form of the mask in fused attention; none drops it: for full sequences alone"}
    )


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
            objection=_objection,
            example={"model_type": "bert", "num_heads": 12, "hidden_size": 768},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    if "quantize" in use.before:
        return "its patterns are those of float models; put it before quantization"
    if bool(wanted.num_heads) != bool(wanted.hidden_size):
        return "num_heads and hidden_size go together; give both or none"
    if wanted.num_heads and wanted.hidden_size % wanted.num_heads:
        return f"hidden_size {wanted.hidden_size} is no multiple of num_heads {wanted.num_heads}"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Fuse what the patterns of ``model_type`` find in ``job.model``; write ``job.output``.

    :raises ValueError: the model cannot be read.
    :raises RuntimeError: the scripts fail on this graph, or the result does not load.
    """
    wanted = Parameters(**job.parameters)
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    before = _model_file.load(source)
    start = _basic(source, workdir) if wanted.opt_level else source
    fused = _fuse(start, wanted)
    counts = _fusions(before, fused)
    warnings = _complaints(wanted, before, counts)
    if not any(counts.values()) and not wanted.float16:
        _model_file.copy(source, output)
        why = "NO-OP: no pattern was found, so the model was left as it is."
        return {"fused": {}, "warnings": [why, *warnings]}
    _model_file.save(fused, output, ir_version=before.ir_version)
    if problem := _model_file.load_error(output, kernels=False):
        raise RuntimeError(
            f"The fused model does not load: {problem} Check model_type, num_heads and hidden_size, or switch off the "
            "fusion that it names."
        )
    return {
        "fused": counts,
        "nodes_before": len(list(_graph.nodes(before))),
        "nodes_after": len(list(_graph.nodes(fused))),
        "bytes_before": _model_file.size(source),
        "bytes_after": _model_file.size(output),
        "warnings": warnings,
    }


def _basic(source: Path, workdir: Path) -> Path:
    """Save ORT's basic optimizations, without the one that hides constants from the patterns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    saved = workdir / "basic.onnx"
    options.optimized_model_filepath = str(saved)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "basic.onnx.data")
    try:
        onnxruntime.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
    except Exception as problem:
        raise RuntimeError(
            f"ONNX Runtime's basic optimizations failed: {_model_file.first_line(problem)} Use opt_level = 0."
        ) from problem
    return saved


def _fuse(start: Path, wanted: Parameters) -> Any:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions(wanted.model_type)
    for switch in FUSION_SWITCHES:
        if not getattr(wanted, switch):
            setattr(options, f"enable_{switch}", False)
    options.enable_gelu_approximation = wanted.gelu_approximation
    options.use_multi_head_attention = wanted.multi_head_attention
    if wanted.attention_mask == "none":
        options.disable_attention_mask()
    elif wanted.attention_mask != "auto":
        options.use_raw_attention_mask(wanted.attention_mask == "raw")
    try:
        made = optimizer.optimize_model(
            str(start),
            model_type=wanted.model_type,
            num_heads=wanted.num_heads,
            hidden_size=wanted.hidden_size,
            optimization_options=options,
            opt_level=0,
        )
        if wanted.float16:
            made.convert_float_to_float16(keep_io_types=wanted.keep_io_types)
    except Exception as problem:
        raise RuntimeError(
            f"The fusions for {wanted.model_type} failed on this model: {type(problem).__name__}: "
            f"{_model_file.first_line(problem)} Is model_type right?"
        ) from problem
    return made.model


def _fusions(before: Any, after: Any) -> dict[str, int]:
    """How many fused operators of each kind there are now that were not there before."""
    old, new = _graph.op_counts(before), _graph.op_counts(after)
    return {op: new[op] - old.get(op, 0) for op in sorted(FUSED) if new.get(op, 0) > old.get(op, 0)}


def _attention_softmaxes(model: Any) -> int:
    """Count the Softmax nodes whose result is multiplied with something: the mark of attention, however exported."""
    found = 0
    for graph in _graph.graphs(model):
        reached = {node.output[0] for node in graph.node if node.op_type == "Softmax"}
        made_by = {name: name for name in reached}
        for node in graph.node:
            if node.op_type in ("Cast", "Dropout", "Identity", "Where") and (names := reached.intersection(node.input)):
                made_by[node.output[0]] = made_by[next(iter(names))]
                reached.add(node.output[0])
        multiplied = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
        found += len({made_by[name] for name in reached & multiplied})
    return found


def _complaints(wanted: Parameters, before: Any, counts: dict[str, int]) -> list[str]:
    """Say which fusion was to be expected and did not happen, with the likely cause."""
    ops = _graph.op_counts(before)
    softmaxes = _attention_softmaxes(before)
    attentions = sum(counts.get(op, 0) for op in ATTENTION)
    expected = wanted.attention and wanted.model_type not in WITHOUT_ATTENTION_FUSION
    if not expected or any(op in ops for op in ATTENTION):
        return []
    if not softmaxes:
        return [
            "0 Attention fused: no Softmax of the model feeds a MatMul, so it has no attention. Is it a transformer?"
        ]
    if attentions:
        left = softmaxes - attentions
        return [f"{attentions} of {softmaxes} attentions were fused; {left} have another form."] if left > 0 else []
    causes = [
        "the export holds scaled_dot_product_attention, or was made by torch's dynamo exporter: no pattern knows either"
    ]
    if not wanted.num_heads:
        causes.append("num_heads and hidden_size are not given and could not be detected")
    return [
        f"0 Attention fused, though the model has {softmaxes} Softmax before a MatMul. Likely cause: "
        f"{', or '.join(causes)}. Export with "
        "attn_implementation='eager' and dynamo=False, and give num_heads and hidden_size."
    ]
