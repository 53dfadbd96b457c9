"""Faults that leave most of an output right: scaled scores, single detections, tiles, token logits, sound."""

from __future__ import annotations

import numpy as np
import onnx
from graph_edits import in_weight, node, put, values
from plant_detectors import BOXES, HEAD, ROWS, SCORES
from plant_pictures import IMAGE, MAP
from planting import Array, Outputs, fault, in_array, in_model, in_outputs

# Detectors


def _rare_halved(array: Array) -> None:
    array[:, 7] *= 0.5


def _capped(array: Array) -> None:
    array[:, 4:] = np.minimum(array[:, 4:], 0.3)


def _lifted(array: Array) -> None:
    array[:, 4:] = 0.3 + 0.7 * array[:, 4:]


def _tripled(array: Array) -> None:
    array[:, 4:] = np.minimum(3 * array[:, 4:], 1)


def _binary(array: Array) -> None:
    array[:, 4:] = array[:, 4:] > 0.9


def _sizes_at_objects(array: Array) -> None:
    # Only where something is detected: 5 % of the anchors.
    found = array[0, 4:].max(axis=0) > 0.3
    array[0, 2:4, found] *= 2


def _best_lost(outputs: Outputs) -> None:
    # The surest anchor of each picture is silent; its neighbors are not.
    for sample in outputs:
        scores = sample[HEAD][0, 4:]
        scores[:, scores.max(axis=0).argmax()] = 0


def _one_anchor_shift(array: Array) -> None:
    array[:, 4:] = np.roll(array[:, 4:], 1, axis=-1)


def _no_half(model: onnx.ModelProto) -> None:
    put(model, "grid", values(model, "grid") - np.float32(0.5))


def _logits(model: onnx.ModelProto) -> None:
    node(model, "output0").input[1] = "cls_logits"


HEADS = {"output": HEAD, "family": "scores and boxes, partly right"}
fault(
    "yolo",
    "rare-scores-halved",
    "the scores of the rare class are half of what they should be",
    in_array(HEAD, _rare_halved),
    **HEADS,
)
fault("yolo", "scores-capped", "no class score exceeds 0.3", in_array(HEAD, _capped), **HEADS)
fault("yolo", "scores-lifted", "class scores begin at 0.3 instead of 0", in_array(HEAD, _lifted), **HEADS)
fault("yolo", "scores-tripled", "class scores are three times too high", in_array(HEAD, _tripled), **HEADS)
fault("yolo", "scores-binary", "class scores are 0 or 1, with a threshold of 0.9", in_array(HEAD, _binary), **HEADS)
fault(
    "yolo",
    "sizes-wrong-at-objects",
    "boxes of detected objects are twice too large, all others are right",
    in_array(HEAD, _sizes_at_objects),
    **HEADS,
)
fault("yolo", "best-anchor-silent", "the surest anchor of each picture has no score", in_outputs(_best_lost), **HEADS)
fault("yolo", "scores-one-anchor-off", "the scores are one anchor off", in_array(HEAD, _one_anchor_shift), **HEADS)
fault("yolo", "grid-half-missing", "the grid of anchors lacks the half cell to the center", in_model(_no_half), **HEADS)
fault("yolo", "logits-for-scores", "class scores are logits", in_model(_logits), **HEADS)


def _objectness_halved(array: Array) -> None:
    array[..., 4] *= 0.5


def _objectness_rolled(array: Array) -> None:
    array[..., 4] = np.roll(array[..., 4], CELL, axis=1)


CELL = 12

fault(
    "yolo5",
    "objectness-halved",
    "objectness is half of what it should be",
    in_array(ROWS, _objectness_halved),
    output=ROWS,
    family=HEADS["family"],
)
fault(
    "yolo5",
    "objectness-one-row-off",
    "objectness is one row of cells off",
    in_array(ROWS, _objectness_rolled),
    output=ROWS,
    family=HEADS["family"],
)


def _pair_halved(array: Array) -> Array:
    return array * np.float32(0.5)


fault(
    "yolo-pair",
    "scores-halved",
    "scores are half of what they should be",
    in_array(SCORES, _pair_halved),
    output=SCORES,
    family=HEADS["family"],
)
fault(
    "yolo-pair",
    "boxes-of-one-cell-off",
    "boxes are one anchor off, scores are right",
    in_array(BOXES, lambda array: np.roll(array, 1, axis=1)),
    output=BOXES,
    family=HEADS["family"],
)


def _box_off_once(outputs: Outputs) -> None:
    outputs[8]["det_boxes"][1] += 14


def _label_wrong_twice(outputs: Outputs) -> None:
    for number in (4, 8):
        outputs[number]["det_labels"][0] = 3 - outputs[number]["det_labels"][0]


def _scores_sorted(outputs: Outputs) -> None:
    for sample in outputs:
        sample["det_scores"] = np.sort(sample["det_scores"])


LISTS = {"family": "lists of detections"}
fault(
    "yolo-nms",
    "box-off-once",
    "one of 31 boxes is 14 pixels off",
    in_outputs(_box_off_once),
    output="det_boxes",
    **LISTS,
)
fault(
    "yolo-nms",
    "labels-wrong-twice",
    "two of 31 labels are wrong",
    in_outputs(_label_wrong_twice),
    output="det_labels",
    **LISTS,
)
fault(
    "yolo-nms",
    "scores-sorted",
    "scores are sorted, boxes and labels are not",
    in_outputs(_scores_sorted),
    output="det_scores",
    **LISTS,
)


def _labels_of_one_wrong(array: Array) -> Array:
    return np.where(array == 1, 2, array)


fault(
    "yolo-ranked",
    "class-renamed",
    "one class is given another class's number",
    in_array("labels", _labels_of_one_wrong),
    output="labels",
    family="labels and indices",
)
fault(
    "yolo-ranked",
    "indices-reversed",
    "the best anchors are in reverse order",
    in_array("top_anchors", lambda array: array[:, ::-1].copy()),
    output="top_anchors",
    family="labels and indices",
)
fault(
    "yolo-ranked",
    "indices-off-by-one",
    "the numbers of the best anchors are off by one",
    in_array("top_anchors", lambda array: array + 1),
    output="top_anchors",
    family="labels and indices",
)


# Maps and pictures


def _half_map(array: Array) -> Array:
    return array * np.float32(0.5)


def _tile(array: Array) -> None:
    array[:, :, 64:128, 64:192] = array[:, :, 0:64, 0:128]


def _blurred(array: Array) -> Array:
    total = sum(np.roll(np.roll(array, y, axis=2), x, axis=3) for y in range(-6, 7, 3) for x in range(-6, 7, 3))
    return (total / 25).astype(np.float32)


fault("det", "map-halved", "the map is half of what it should be", in_array(MAP, _half_map), output=MAP, family="maps")
fault(
    "det", "tile-repeated", "one tile of the map is a copy of another", in_array(MAP, _tile), output=MAP, family="maps"
)
fault("det", "map-blurred", "the map is blurred over 12 pixels", in_array(MAP, _blurred), output=MAP, family="maps")


def _broken_tile(array: Array) -> None:
    array[:, 64:96, 64:96] = 128


def _coarse(array: Array) -> Array:
    return (array // 64 * 64).astype(np.uint8)


def _grainy(array: Array) -> Array:
    noise = np.random.default_rng(9).normal(0, 30, array.shape)
    return np.clip(array + noise, 0, 255).astype(np.uint8)


fault(
    "sharpen",
    "tile-gray",
    "a tile of 32 x 32 pixels is gray",
    in_array(IMAGE, _broken_tile),
    output=IMAGE,
    family="pictures",
)
fault("sharpen", "coarse", "four levels instead of 256", in_array(IMAGE, _coarse), output=IMAGE, family="pictures")
fault("sharpen", "grainy", "noise of 30 of 255", in_array(IMAGE, _grainy), output=IMAGE, family="pictures")


# Token logits

LOGITS = "logits"


def _last_token_frozen(array: Array) -> None:
    array[:, -1] = array[:, 0]


def _end_never(array: Array) -> None:
    array[..., 102] = -1e4


def _vocabulary_off(array: Array) -> Array:
    return np.roll(array, 1, axis=-1)


def _steps_off(array: Array) -> Array:
    return np.roll(array, 1, axis=1)


def _frequent_only(array: Array) -> None:
    # Words beyond the first 8000 of the vocabulary have no logits.
    array[..., 8000:] = 0


TOKENS = {"output": LOGITS, "family": "token logits"}
fault(
    "minilm-logits",
    "vocabulary-off-by-one",
    "the vocabulary is shifted by one",
    in_array(LOGITS, _vocabulary_off),
    **TOKENS,
)
fault("minilm-logits", "end-never-chosen", "the logit of one token is -1e4", in_array(LOGITS, _end_never), **TOKENS)
fault("minilm-logits", "steps-off-by-one", "the logits are one position late", in_array(LOGITS, _steps_off), **TOKENS)
fault(
    "minilm-logits",
    "last-position-frozen",
    "the last position repeats the first",
    in_array(LOGITS, _last_token_frozen),
    **TOKENS,
)
fault(
    "minilm-logits", "rare-words-silent", "the logits of rare words are 0", in_array(LOGITS, _frequent_only), **TOKENS
)


# Sound

SOUND = "sound"


def _second_half_silent(array: Array) -> None:
    array[..., array.shape[-1] // 2 :] = 0


def _clipped(array: Array) -> Array:
    return np.clip(array, -0.02, 0.02)


def _drift(array: Array) -> Array:
    return array + np.float32(0.5)


WAVES = {"output": SOUND, "family": "sound"}
fault("low-pass", "polarity", "the sound is inverted", in_array(SOUND, np.negative), **WAVES)
fault("low-pass", "second-half-silent", "the second half is silent", in_array(SOUND, _second_half_silent), **WAVES)
fault("low-pass", "clipped", "the sound is clipped at a fraction of its level", in_array(SOUND, _clipped), **WAVES)
fault("low-pass", "offset", "the sound has an offset", in_array(SOUND, _drift), **WAVES)
fault(
    "low-pass",
    "filter-reversed",
    "a high-pass instead of a low-pass filter",
    in_weight("taps", lambda taps: taps * np.cos(np.pi * np.arange(taps.size)).reshape(taps.shape).astype(np.float32)),
    **WAVES,
)
fault(
    "low-pass",
    "late",
    "the sound is 8 samples late",
    in_array(SOUND, lambda array: np.roll(array, 8, axis=-1)),
    **WAVES,
)
