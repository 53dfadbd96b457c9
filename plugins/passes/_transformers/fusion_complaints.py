"""Says which fusion of a transformer was expected and did not happen, with the cause: found by trying where possible.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._models import model_file, onnx_graph
from . import attention_nodes, fusion
from .model_types import MODEL_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx import ModelProto

__all__ = ["Attempt", "complaints"]

WITHOUT_ATTENTION_FUSION: Final = frozenset({"vae"})

OTHER_TYPES: Final = ("bert", "gpt2", "bart", "t5", "clip", "vit")
"""What is tried in the place of a model type that fuses no attention."""

TRIED_BELOW: Final = 300_000_000
"""Bytes of a model above which nothing is tried: each try costs seconds there."""

HARMLESS: Final[Mapping[str, Any]] = {
    "float16": False,
    "input_int32": False,
    "convert_to_packing_mode": False,
    "verbose": False,
}
"""What a try leaves out."""


@dataclass(frozen=True)
class Attempt:
    """What was tried.

    :param settings: all options, by name. :param level: of ONNX Runtime's own optimizations.
    :param start: what the fusions were given, made of ``source``. :param before: ``source``, loaded.
    """

    settings: Mapping[str, Any]
    level: int
    source: Path
    start: Path
    workdir: Path
    before: ModelProto
    heads: attention_nodes.Heads

    @property
    def model_type(self) -> str:
        """The model type that was asked for."""
        name: str = self.settings["model_type"]
        return name


def complaints(attempt: Attempt, counts: Mapping[str, int], fused: ModelProto) -> list[str]:
    """Return a sentence for each kind of fusion that was to be expected and did not happen, and for lost masks.

    :param counts: what was fused, by operator.
    """
    settings, patterns = attempt.settings, attention_nodes.patterns_in(attempt.before)
    ops = onnx_graph.op_counts(attempt.before)
    said = []
    if lost := attention_nodes.masks_dropped(attempt.before, fused):
        said.append(_of_masks(attempt, lost))
    looked_for = not settings["disable_attention"] and attempt.model_type not in WITHOUT_ATTENTION_FUSION
    if looked_for and not any(op in ops for op in attention_nodes.ATTENTION):
        said += _of_attention(attempt, counts, patterns.attention)
    if patterns.gelu and not settings["disable_gelu"] and not any(counts.get(op) for op in attention_nodes.GELU):
        said.append(f"0 GELU fused, though the model has {patterns.gelu} Erf: its GELU has another form.")
    if (
        patterns.layer_norm
        and not settings["disable_layer_norm"]
        and not any(map(counts.get, attention_nodes.NORMALIZATION))
    ):
        said.append(
            f"0 LayerNormalization fused, though the model has {patterns.layer_norm} of them as separate operators: "
            "they have another form."
        )
    return said


def _of_masks(attempt: Attempt, lost: int) -> str:
    dropped = f"MASK DROPPED: {lost} attentions were fused without what the model adds to their scores, its mask"
    if attempt.settings["no_attention_mask"]:
        return f"{dropped}, as no_attention_mask asks: right for full sequences alone."
    return (
        f"{dropped}: the patterns for {attempt.model_type!r} do not look for it. Give the model's own model_type, "
        "or set use_raw_attention_mask or disable_attention."
    )


def _of_attention(attempt: Attempt, counts: Mapping[str, int], expected: int) -> list[str]:
    made = sum(counts.get(op, 0) for op in attention_nodes.ATTENTION)
    if made:
        left = expected - made
        return [f"{made} of {expected} attentions were fused; {left} have another form."] if left > 0 else []
    if not expected:
        return [
            "0 Attention fused: no Softmax of the model feeds a MatMul, so it has no attention. Is it a transformer?"
        ]
    found = f"0 Attention fused, though the model has {expected} Softmax before a MatMul."
    if cause := _found_by_trying(attempt):
        return [f"{found} Cause: {cause}"]
    return [f"{found} Likely cause: {_likely(attempt)}"]


def _found_by_trying(attempt: Attempt) -> str:
    """Say which other level or model type fuses attention here; ``""`` when none does, or the model is too large."""
    hopeless = attention_nodes.dynamo_exported(attempt.before) or onnx_graph.quantized_ops(attempt.before)
    if hopeless or model_file.size(attempt.start) > TRIED_BELOW:
        return ""
    if attempt.level > 1:
        basic = attempt.workdir / "tried.onnx"
        cpu = [("CPUExecutionProvider", dict[str, str]())]
        split = model_file.has_external_data(attempt.source)
        fusion.optimized_first(attempt.source, basic, level="basic", providers=cpu, only=False, split=split)
        if ops := _attentions(attempt, basic, attempt.model_type):
            return (
                f"opt_level = {attempt.level} lets ONNX Runtime fuse first, which hides attention from the patterns: "
                f"opt_level = 1 gives {ops}."
            )
    known = fusion.known_types()
    for other in OTHER_TYPES:
        if other != attempt.model_type and other in known and (ops := _attentions(attempt, attempt.start, other)):
            return f"model_type = {attempt.model_type!r} is wrong: {other!r} fuses {ops} here."
    return ""


def _attentions(attempt: Attempt, start: Path, model_type: str) -> str:
    """Return the attention operators that a try makes, as words; ``""`` for none."""
    settings = {**attempt.settings, **HARMLESS, "model_type": model_type}
    heads = attempt.heads
    try:
        made = fusion.fuse(start, settings, num_heads=heads.num_heads, hidden_size=heads.hidden_size)
    except RuntimeError:
        return ""
    counts = attention_nodes.fused_since(attempt.before, made.model)
    return " and ".join(f"{n} {op}" for op, n in counts.items() if op in attention_nodes.ATTENTION)


def _likely(attempt: Attempt) -> str:
    """Say why no attention was fused, as far as the graph tells, and what to do about it."""
    wanted, producer = MODEL_TYPES[attempt.model_type].producer, attempt.before.producer_name
    if attention_nodes.dynamo_exported(attempt.before):
        return (
            "torch's dynamo exporter wrote the model, and no pattern knows its graphs. Export with dynamo=False and "
            "attn_implementation='eager'."
        )
    if onnx_graph.quantized_ops(attempt.before):
        return "the model is quantized, and the patterns are those of float models. Put this pass before quantization."
    remedy = "Export with attn_implementation='eager' and dynamo=False"
    if attention_nodes.scaled_dot_product(attempt.before):
        causes = ["the export holds scaled_dot_product_attention, which few patterns know"]
    else:
        causes = [
            f"its attention has another form than those that the patterns for {attempt.model_type!r} know, which are "
            "of certain releases of exporters and libraries"
        ]
        remedy += " if that was not done, or with an older release of the library that the model comes from"
    if producer and producer != wanted and not producer.startswith("onnx"):
        fitting = [name for name, known in MODEL_TYPES.items() if known.producer == producer]
        other = f" (there are {', '.join(fitting)} for it)" if fitting else ""
        causes.append(
            f"the model was made by {producer}, and model_type = {attempt.model_type!r} is for graphs of "
            f"{wanted}{other}"
        )
    heads_too = ""
    if not attempt.heads.num_heads:
        causes.append("num_heads and hidden_size are not given and could not be read from the graph")
        heads_too = ", and give num_heads and hidden_size"
    return f"{', or '.join(causes)}. {remedy}{heads_too}."
