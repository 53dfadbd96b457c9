"""What ``transformer-optimizer`` refuses before anything runs: options that do not go together, or not here."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from .._models.ort_graph import LAYOUT_SINCE, version_of
from .model_types import GPU_EPS, IMAGE_TYPES, LEVEL_NAMES, MODEL_TYPES, PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ortforge.api import PassUse

    from ..transformer_optimizer import Parameters

__all__ = ["objection"]

MASKS: Final = ("use_mask_index", "use_raw_attention_mask", "no_attention_mask")

FOR_IMAGES: Final = (
    "disable_group_norm",
    "disable_skip_group_norm",
    "disable_packed_kv",
    "disable_packed_qkv",
    "disable_bias_add",
    "disable_bias_splitgelu",
    "disable_nhwc_conv",
    "use_group_norm_channels_first",
)

GO_WITH: Final = {
    "keep_io_types": "float16",
    "convert_attribute": "use_external_data_format",
    "disable_symbolic_shape_infer": "convert_to_packing_mode",
}
"""Options that say how another one is done."""

OF_FUSIONS: Final = (
    *MASKS,
    *FOR_IMAGES,
    "num_heads",
    "disable_attention",
    "disable_layer_norm",
    "disable_skip_layer_norm",
    "disable_bias_skip_layer_norm",
    "disable_embed_layer_norm",
    "disable_gelu",
    "disable_bias_gelu",
    "disable_rotary_embeddings",
    "disable_shape_inference",
    "enable_gelu_approximation",
    "enable_gemm_fast_gelu",
    "use_multi_head_attention",
)
"""What the scripts' own fusions are told."""


def objection(use: PassUse) -> str:
    """Return why the pass cannot be used like this, or ``""``."""
    wanted: Parameters = use.parameters
    return next(chain(_of_recipe(wanted, use), _of_version(wanted, use), _of_ep(wanted, use)), "")


def _of_recipe(wanted: Parameters, use: PassUse) -> Iterator[str]:
    if wanted.num_heads < 0 or wanted.hidden_size < 0:
        yield "num_heads and hidden_size cannot be negative; leave them out to have them read from the graph"
    if bool(wanted.num_heads) != bool(wanted.hidden_size):
        yield "num_heads and hidden_size go together; give both or none"
    if wanted.num_heads and wanted.hidden_size % wanted.num_heads:
        yield f"hidden_size {wanted.hidden_size} is no multiple of num_heads {wanted.num_heads}"
    masks = [name for name in MASKS if getattr(wanted, name)]
    if len(masks) > 1:
        yield f"{' and '.join(masks)} exclude each other; a mask has one form"
    if wanted.model_type not in IMAGE_TYPES and (odd := [name for name in FOR_IMAGES if getattr(wanted, name)]):
        yield f"{', '.join(odd)} has no effect for model_type {wanted.model_type!r}: it is for {', '.join(IMAGE_TYPES)}"
    if wanted.only_onnxruntime and not wanted.level:
        yield "only_onnxruntime with opt_level 0 leaves nothing to do; give opt_level 1, 2, 3 or 99"
    if wanted.only_onnxruntime and (wanted.float16 or wanted.input_int32 or wanted.convert_to_packing_mode):
        yield "only_onnxruntime excludes float16, input_int32 and convert_to_packing_mode, which the scripts do"
    for option, needs in GO_WITH.items():
        if getattr(wanted, option) != getattr(type(wanted), option) and not getattr(wanted, needs):
            yield f"{option} has no effect without {needs} = true; set that too, or leave it out"
    if wanted.only_onnxruntime and (idle := [name for name in OF_FUSIONS if getattr(wanted, name)]):
        yield f"only_onnxruntime makes no fusions, which {', '.join(idle)} would shape; leave one of the two out"
    if wanted.convert_to_packing_mode and wanted.model_type != "bert":
        yield f"convert_to_packing_mode is for model_type 'bert', not {wanted.model_type!r}"


def _of_version(wanted: Parameters, use: PassUse) -> Iterator[str]:
    if not use.ort_version:
        return
    here, since = version_of(use.ort_version), MODEL_TYPES[wanted.model_type].since
    if here < since:
        known = ", ".join(name for name, entry in MODEL_TYPES.items() if entry.since <= here)
        yield (
            f"ONNX Runtime {use.ort_version} does not know model_type {wanted.model_type!r}: it is there since "
            f"{_dotted(since)}; this one knows {known}"
        )
    if wanted.level == 3 and here < LAYOUT_SINCE:
        yield (
            f"ONNX Runtime {use.ort_version} has no level 3 (layout): it is there since {_dotted(LAYOUT_SINCE)}; "
            "opt_level = 99 does the same there"
        )


def _of_ep(wanted: Parameters, use: PassUse) -> Iterator[str]:
    if wanted.provider and not wanted.use_gpu:
        yield f"provider = {wanted.provider!r} says which GPU's EP optimizes, and use_gpu is not set"
    if wanted.use_gpu and use.ep not in GPU_EPS:
        yield f"use_gpu is for the EPs of GPUs ({', '.join(GPU_EPS)}), and this cell runs on {use.ep}"
    elif wanted.use_gpu and wanted.provider and PROVIDERS[wanted.provider] != use.ep:
        yield f"provider = {wanted.provider!r} optimizes for another EP than this cell's, which is {use.ep}"
    if wanted.level > 1 and not wanted.use_gpu and use.ep != "cpu":
        yield (
            f"opt_level {wanted.level} ({LEVEL_NAMES[wanted.level]}) without use_gpu optimizes for the CPU EP, whose "
            f"fused operators {use.ep} may not have; use opt_level = 1"
        )
    if wanted.convert_to_packing_mode and use.ep != "cuda":
        yield f"convert_to_packing_mode makes PackedAttention, which CUDA alone has; this cell runs on {use.ep}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
