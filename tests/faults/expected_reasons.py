"""What a reason has to say of a fault: the slices that it names, or words of the sentence.

Faults that are not listed need a reason that names their output.
"""

from __future__ import annotations

from typing import Final

SLICES: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "yolo-class-scores-zero": (1, (4, 5, 6, 7)),
    "yolo-common-class-zero": (1, (4,)),
    "yolo-rare-class-zero": (1, (7,)),
    "yolo-class-row-constant": (1, (5,)),
    "yolo-class-rows-shifted": (1, (4, 5, 6, 7)),
    "yolo-class-rows-swapped": (1, (4, 6)),
    "yolo-scores-saturated": (1, (4, 5, 6, 7)),
    "yolo-sigmoid-twice": (1, (4, 5, 6, 7)),
    "yolo-widths-zero": (1, (2,)),
    "yolo-sizes-constant": (1, (2, 3)),
    "yolo-boxes-half-scale": (1, (0, 1, 2, 3)),
    "yolo-corners-for-centers": (1, (2, 3)),
    "yolo-x-y-swapped": (1, (0, 1, 2, 3)),
    "yolo-scores-reversed": (1, (4, 5, 6, 7)),
    "yolo-grid-transposed": (1, (0, 1)),
    "yolo-stride-wrong": (1, (2, 3)),
    "yolo-exp-dropped": (1, (2, 3)),
    "yolo-rare-logits-flipped": (1, (7,)),
    "yolo-class-weights-swapped": (1, (4, 6)),
    "yolo-concat-one-scale": (1, (3,)),
    "yolo5-objectness-one": (2, (4,)),
    "yolo5-objectness-zero": (2, (4,)),
    "yolo5-class-columns-shifted": (2, (5, 6, 7, 8)),
    "yolo5-class-column-zero": (2, (6,)),
    "yolo5-height-is-width": (2, (3,)),
    "yolo-pair-class-columns-swapped": (2, (0, 1)),
    "minilm-first-token-zero": (1, (0,)),
    "minilm-third-token-zero": (1, (2,)),
    "minilm-tokens-swapped": (1, (1, 2)),
}
"""Axis and indices of the slices that a reason must name."""

WORDS: Final[dict[str, str]] = {
    "yolo-boxes-one-cell-off": "detections agree",
    "yolo-pair-scores-float16": "float16 where the reference is float32",
    "yolo-pair-class-missing": "shape",
    "yolo-pair-extra-output": "does not give",
    "yolo-pair-missing-output": "is missing",
    "yolo-nms-extra-detection": "shape",
    "yolo-nms-best-only": "shape",
    "yolo-nms-detection-lost-once": "shape",
    "yolo-nms-duplicated": "shape",
    "yolo-nms-labels-off-by-one": "elements agree",
    "yolo-nms-labels-constant": "elements agree",
    "yolo-nms-labels-int32": "int32 where the reference is int64",
    "yolo-nms-no-detections": "shape",
    "yolo-nms-blank-nothing-compared": "empty in all",
    "cls-half-half": "constant",
    "cls-columns-swapped": "is lost|choices agree",
    "magika-labels-off-by-one": "choices agree",
    "vad-state-zero": "constant|slice|cosine 0 ",
    "vad-probability-constant": "constant",
    "vad-probability-zero": "constant",
    "minilm-next-sample": "nearest neighbors agree",
    "minilm-scores-sentinel-weaker": "where the reference has -1e",
    "minilm-scores-sentinel-vanished": "where the reference has -1e",
    "minilm-scores-sentinels-moved": "where the reference has -1e",
    "minilm-scores-constant-between-sentinels": "constant",
    "minilm-inf-inf-vanished": "where it has Inf",
    "minilm-inf-inf-became-nan": "NaN",
    "minilm-inf-inf-sign": "inf",
    "minilm-inf-nan-became-zero": "where the reference has NaN",
    "minilm-inf-nan-became-numbers": "where the reference has NaN",
    "minilm-new-nan": "NaN",
    "minilm-layers-extra-element": "does not give",
    "minilm-layers-extra-element-once": "does not give",
    "minilm-layers-missing-element": "is missing",
    "minilm-layers-tensor-instead": "is missing",
    "det-map-zero": "constant",
    "det-map-saturated": "constant",
    "det-line-lost": "slices",
    "sharpen-black": "constant",
    "sharpen-float-instead": "float32 where the reference is uint8",
}
"""Words of a reason, as a regular expression."""


def expected(name: str) -> str:
    """Return a regular expression for a reason of the fault with this name; it matches anything when none is listed."""
    if name in SLICES:
        axis, indices = SLICES[name]
        every = "".join(rf"(?=[\d, ]*\b{index}\b)" for index in indices)
        return rf"slices? {every}[\d, ]*(and others )?of axis {axis} "
    return WORDS.get(name, "")
