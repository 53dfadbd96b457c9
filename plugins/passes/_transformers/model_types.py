"""ONNX Runtime's transformer optimizer as far as it is known before anything runs: model types, and which version has
what.

Only the standard library is imported: the plan's process reads this, and has no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["GPU_EPS", "IMAGE_TYPES", "LEVEL_NAMES", "MODEL_TYPES", "PROVIDERS", "ModelType"]


@dataclass(frozen=True)
class ModelType:
    """One architecture whose patterns ONNX Runtime knows.

    :param producer: ``producer_name`` of the exporter whose graphs it was written for.
    :param opt_level: level of ONNX Runtime's own optimizations before the fusions, unless one is given.
    :param since: the first release whose parser has it, as ``(major, minor)``; ``(0, 0)`` for 1.16 and earlier.
    """

    producer: str
    opt_level: int
    since: tuple[int, int] = (0, 0)


MODEL_TYPES: Final = {
    "bart": ModelType("pytorch", 1),
    "bert": ModelType("pytorch", 1),
    "bert_keras": ModelType("keras2onnx", 0),
    "bert_tf": ModelType("tf2onnx", 0),
    "clip": ModelType("pytorch", 1),
    "conformer": ModelType("pytorch", 1, (1, 17)),
    "gpt2": ModelType("pytorch", 1),
    "gpt2_tf": ModelType("tf2onnx", 0),
    "gpt_neox": ModelType("pytorch", 0),
    "mmdit": ModelType("pytorch", 1, (1, 21)),
    "phi": ModelType("pytorch", 0, (1, 18)),
    "qwen3": ModelType("pytorch", 0, (1, 25)),
    "sam2": ModelType("pytorch", 1, (1, 20)),
    "swin": ModelType("pytorch", 1),
    "t5": ModelType("pytorch", 2),
    "tnlr": ModelType("pytorch", 1),
    "unet": ModelType("pytorch", 1),
    "vae": ModelType("pytorch", 1),
    "vit": ModelType("pytorch", 1),
}
"""``MODEL_TYPES`` of onnxruntime/transformers/optimizer.py, read from the releases 1.16.3 to 1.32.0."""

IMAGE_TYPES: Final = ("clip", "unet", "vae")
"""Model types for which the options of group normalization and packed projections exist."""

LEVEL_NAMES: Final = {0: "", 1: "basic", 2: "extended", 3: "layout", 99: "all"}
"""``opt_level`` in ONNX Runtime's words for levels."""

PROVIDERS: Final = {"cuda": "cuda", "dml": "directml", "migraphx": "migraphx", "tensorrt": "tensorrt"}
"""ONNX Runtime's words for ``provider``, and the EPs that they mean."""

GPU_EPS: Final = tuple(PROVIDERS.values())
