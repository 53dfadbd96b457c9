"""Faults of object detectors: heads in one tensor, anchors first, two outputs, and after non-maximum suppression."""

from __future__ import annotations

import numpy as np
import onnx
from detector_model import ANCHORS, CELLS, CLASSES, SIDE
from graph_edits import become, in_weight, node, put
from planting import Array, Outputs, Sample, fault, in_array, in_model, in_outputs

HEAD, ROWS, BOXES, SCORES = "output0", "output", "out_boxes", "out_scores"


def _head(name: str, description: str, change: object, family: str = "one class row or box row") -> None:
    fault("yolo", name, description, in_array(HEAD, change), output=HEAD, family=family)  # type: ignore[arg-type]


def _zero_classes(array: Array) -> None:
    array[:, 4:] = 0


def _zero_common(array: Array) -> None:
    array[:, 4] = 0


def _zero_rare(array: Array) -> None:
    array[:, 7] = 0


def _mean_row(array: Array) -> None:
    array[:, 5] = array[:, 5].mean()


def _shift_classes(array: Array) -> None:
    array[:, 4:] = np.roll(array[:, 4:], 1, axis=1)


def _swap_classes(array: Array) -> None:
    array[:, [4, 6]] = array[:, [6, 4]]


def _saturate(array: Array) -> None:
    array[:, 4:] = 1


def _twice_sigmoid(array: Array) -> None:
    array[:, 4:] = 1 / (1 + np.exp(-array[:, 4:]))


def _halve_scores(array: Array) -> None:
    array[:, 4:] *= 0.5


def _zero_widths(array: Array) -> None:
    array[:, 2] = 0


def _half_scale(array: Array) -> None:
    array[:, :4] *= 0.5


def _one_cell(array: Array) -> None:
    array[:, 0] += 8


def _corners_for_centers(array: Array) -> None:
    centers, sizes = array[:, :2].copy(), array[:, 2:4].copy()
    array[:, :2], array[:, 2:4] = centers - sizes / 2, centers + sizes / 2


def _swap_xy(array: Array) -> None:
    array[:, :4] = array[:, [1, 0, 3, 2]]


def _column_major(array: Array) -> Array:
    return array.reshape(1, -1, CELLS, CELLS).transpose(0, 1, 3, 2).reshape(array.shape)


def _reverse_scores(array: Array) -> None:
    array[:, 4:] = array[:, 4:, ::-1].copy()


def _dead_tile(array: Array) -> None:
    array[:, 4:, 3 * ANCHORS // 4 :] = 0


def _sizes_constant(array: Array) -> None:
    array[:, 2:4] = 16


_head("class-scores-zero", "all class scores are 0; the boxes are right", _zero_classes)
_head("common-class-zero", "the scores of one class are 0", _zero_common)
_head("rare-class-zero", "the scores of a class that fires in two pictures are 0", _zero_rare)
_head("class-row-constant", "the scores of one class are their mean everywhere", _mean_row)
_head("class-rows-shifted", "class rows are shifted by one", _shift_classes)
_head("class-rows-swapped", "two class rows are swapped", _swap_classes)
_head("scores-saturated", "all class scores are 1", _saturate)
_head("sigmoid-twice", "Sigmoid is applied twice to the scores", _twice_sigmoid)
_head("scores-halved", "class scores are half of what they should be", _halve_scores)
_head("widths-zero", "all boxes are 0 pixels wide", _zero_widths)
_head("sizes-constant", "all boxes are 16 x 16 pixels", _sizes_constant)
_head("boxes-half-scale", "boxes refer to a picture of half the size", _half_scale, "boxes")
_head("boxes-one-cell-off", "box centers are one grid cell (8 of 96 pixels) too far right", _one_cell, "boxes")
_head("corners-for-centers", "boxes are corners instead of center and size", _corners_for_centers, "boxes")
_head("x-y-swapped", "x and y, width and height are swapped", _swap_xy, "boxes")
_head("anchors-column-major", "anchors are in column-major order", _column_major, "order")
_head("scores-reversed", "scores are in reverse order of anchors, boxes are not", _reverse_scores, "order")
_head("scores-tile-dead", "scores of the last quarter of anchors are 0", _dead_tile, "one class row or box row")


def _grid_transposed(grid: Array) -> Array:
    return grid[:, ::-1].copy()


def _wrong_stride(model: onnx.ModelProto) -> None:
    put(model, "stride16", np.array(16, np.float32))
    node(model, "sizes").input[1] = "stride16"


def _no_exp(model: onnx.ModelProto) -> None:
    become(node(model, "sizes_cells"), "Relu", "logs_clipped")


def _padding_off(model: onnx.ModelProto) -> None:
    for name in ("conv1", "conv2", "conv3"):
        attribute = next(one for one in node(model, name).attribute if one.name == "pads")
        del attribute.ints[:]
        attribute.ints.extend([2, 2, 0, 0])


def _rare_flipped(weights: Array) -> None:
    weights[3] *= -1


def _dead_channels(weights: Array) -> None:
    weights[:16] = 0


YOLO = {"output": HEAD, "family": "graph or weights"}
fault("yolo", "grid-transposed", "x and y of the anchor grid are swapped", in_weight("grid", _grid_transposed), **YOLO)
fault("yolo", "stride-wrong", "box sizes are multiplied by stride 16 instead of 8", in_model(_wrong_stride), **YOLO)
fault("yolo", "exp-dropped", "Relu instead of Exp for box sizes", in_model(_no_exp), **YOLO)
fault(
    "yolo",
    "padding-side",
    "three convolutions pad two on one side instead of one on each",
    in_model(_padding_off),
    **YOLO,
)
fault(
    "yolo",
    "rare-logits-flipped",
    "the logits of the rare class have the wrong sign",
    in_weight("w_cls", _rare_flipped),
    **YOLO,
)
fault(
    "yolo", "channels-dead", "16 of 64 channels of the third convolution are 0", in_weight("w3", _dead_channels), **YOLO
)
fault(
    "yolo",
    "class-weights-swapped",
    "class weights of two classes are swapped",
    in_weight("w_cls", lambda w: w[[2, 1, 0, 3]]),
    **YOLO,
)


# Anchors first, with objectness


def _rows(name: str, description: str, change: object) -> None:
    fault("yolo5", name, description, in_array(ROWS, change), output=ROWS, family="one class row or box row")  # type: ignore[arg-type]


def _objectness_one(array: Array) -> None:
    array[..., 4] = 1


def _objectness_zero(array: Array) -> None:
    array[..., 4] = 0


def _shift_columns(array: Array) -> None:
    array[..., 5:] = np.roll(array[..., 5:], -1, axis=-1)


def _height_is_width(array: Array) -> None:
    array[..., 3] = array[..., 2]


def _class_dead(array: Array) -> None:
    array[..., 6] = 0


def _order_of_columns(array: Array) -> Array:
    return array[..., [0, 1, 2, 3, 5, 6, 7, 8, 4]]


_rows("objectness-one", "objectness is 1 at every anchor", _objectness_one)
_rows("objectness-zero", "objectness is 0 at every anchor", _objectness_zero)
_rows("class-columns-shifted", "class columns are shifted by one", _shift_columns)
_rows("class-column-zero", "the column of one class is 0", _class_dead)
_rows("height-is-width", "the column of heights repeats the widths", _height_is_width)
_rows("objectness-last", "objectness comes after the classes instead of before", _order_of_columns)


# Two outputs


def _normalized(array: Array) -> Array:
    return array / np.float32(SIDE)


def _swap_columns(array: Array) -> None:
    array[..., [0, 1]] = array[..., [1, 0]]


def _y_first(array: Array) -> Array:
    return array[..., [1, 0, 3, 2]]


def _half(array: Array) -> Array:
    return array.astype(np.float16)


def _without_background(array: Array) -> Array:
    return array[..., 1:]


PAIR = {"family": "two outputs"}
fault(
    "yolo-pair",
    "boxes-normalized",
    "boxes are in 0..1 instead of pixels",
    in_array(BOXES, _normalized),
    output=BOXES,
    **PAIR,
)
fault("yolo-pair", "boxes-y-first", "corners are y, x instead of x, y", in_array(BOXES, _y_first), output=BOXES, **PAIR)
fault(
    "yolo-pair",
    "class-columns-swapped",
    "two class columns are swapped",
    in_array(SCORES, _swap_columns),
    output=SCORES,
    **PAIR,
)
fault("yolo-pair", "scores-zero", "all scores are 0", in_array(SCORES, np.zeros_like), output=SCORES, **PAIR)
fault(
    "yolo-pair",
    "scores-float16",
    "scores are float16 instead of float32",
    in_array(SCORES, _half),
    output=SCORES,
    **PAIR,
)
fault(
    "yolo-pair",
    "class-missing",
    "the scores have one class column less",
    in_array(SCORES, _without_background),
    output=SCORES,
    **PAIR,
)


def _extra_output(outputs: Outputs) -> None:
    for sample in outputs:
        sample["out_masks"] = np.zeros((1, ANCHORS, CLASSES), np.float32)


def _missing_output(outputs: Outputs) -> None:
    for sample in outputs:
        del sample[SCORES]


fault(
    "yolo-pair",
    "extra-output",
    "the model has an output that the reference has not",
    in_outputs(_extra_output),
    output="out_masks",
    **PAIR,
)
fault(
    "yolo-pair", "missing-output", "the output of scores is missing", in_outputs(_missing_output), output=SCORES, **PAIR
)


# After non-maximum suppression


def _nms(name: str, description: str, change: object, output: str) -> None:
    def each(outputs: Outputs) -> None:
        for number, sample in enumerate(outputs):
            sample.update(change(sample, number))  # type: ignore[operator]

    fault("yolo-nms", name, description, in_outputs(each), output=output, family="lists of detections")


def _extra(sample: Sample, number: int) -> Sample:
    more = {"det_boxes": np.array([[5, 5, 30, 30]]), "det_scores": np.array([0.9]), "det_labels": np.array([2])}
    return {name: np.concatenate([array, more[name].astype(array.dtype)]) for name, array in sample.items()}


def _best_only(sample: Sample, number: int) -> Sample:
    return {name: array[:1] for name, array in sample.items()}


def _lost_in_one(sample: Sample, number: int) -> Sample:
    return {name: array[:-1] if number == 4 else array for name, array in sample.items()}


def _duplicated(sample: Sample, number: int) -> Sample:
    return {name: np.concatenate([array, array]) for name, array in sample.items()}


def _label_off(sample: Sample, number: int) -> Sample:
    return {"det_labels": sample["det_labels"] + 1}


def _label_constant(sample: Sample, number: int) -> Sample:
    return {"det_labels": np.zeros_like(sample["det_labels"])}


def _boxes_reversed(sample: Sample, number: int) -> Sample:
    return {"det_boxes": sample["det_boxes"][::-1].copy()}


def _scores_one(sample: Sample, number: int) -> Sample:
    return {"det_scores": np.ones_like(sample["det_scores"])}


def _labels_int32(sample: Sample, number: int) -> Sample:
    return {"det_labels": sample["det_labels"].astype(np.int32)}


def _nothing(sample: Sample, number: int) -> Sample:
    return {name: array[:0] for name, array in sample.items()}


_nms("extra-detection", "each picture has a detection too many", _extra, "det_boxes")
_nms("best-only", "only the first detection of a picture is given", _best_only, "det_boxes")
_nms("detection-lost-once", "one detection of one picture is missing", _lost_in_one, "det_boxes")
_nms("duplicated", "each detection is given twice", _duplicated, "det_boxes")
_nms("labels-off-by-one", "labels count from 1 instead of 0", _label_off, "det_labels")
_nms("labels-constant", "all labels are 0", _label_constant, "det_labels")
_nms("boxes-reversed", "boxes are in reverse order of scores and labels", _boxes_reversed, "det_boxes")
_nms("scores-one", "all scores are 1", _scores_one, "det_scores")
_nms("labels-int32", "labels are int32 instead of int64", _labels_int32, "det_labels")
_nms("no-detections", "no detection in any picture", _nothing, "det_boxes")


def _no_suppression(model: onnx.ModelProto) -> None:
    put(model, "overlap", np.array(1.0, np.float32))


def _never(model: onnx.ModelProto) -> None:
    put(model, "threshold", np.array(0.999, np.float32))


NMS = {"output": "det_boxes", "family": "lists of detections"}
fault(
    "yolo-nms",
    "suppression-off",
    "non-maximum suppression lets overlapping boxes through",
    in_model(_no_suppression),
    **NMS,
)
fault("yolo-nms", "threshold-wrong", "the score threshold is 0.999 instead of 0.35", in_model(_never), **NMS)
fault(
    "yolo-nms-blank",
    "nothing-compared",
    "no detection in any picture, neither in the reference: nothing is compared, and the class scores are 0",
    in_weight("w_cls", np.zeros_like),
    family="too little evidence",
    statuses=("unproven",),
)
