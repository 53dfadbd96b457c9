"""A small object detector with the heads of the YOLO family, trained here on pictures drawn here.

The backbone has random convolutions. The head (a 3x3 convolution with random filters and a 1x1 convolution) is fitted:
class scores by logistic regression, boxes by ridge regression. So class scores are near 0 almost everywhere and near 1
at objects, boxes are in pixels, and a class that is rare in the pictures fires rarely, as in trained detectors.

Pictures are 96 x 96 with up to four objects of four classes: red squares, green disks, blue squares, white bars (rare).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from planting import Array, Sample, run

SIDE, STRIDE, CLASSES = 96, 8, 4
CELLS = SIDE // STRIDE
ANCHORS = CELLS * CELLS
FEATURES = 192
KEPT_NEGATIVES = 11
COLORS = ((0.9, 0.15, 0.1), (0.1, 0.8, 0.2), (0.15, 0.2, 0.9), (0.95, 0.95, 0.95))


@dataclass(frozen=True)
class Thing:
    """One object in a picture: class, center and size in pixels."""

    kind: int
    x: float
    y: float
    width: float
    height: float


def picture(draw: np.random.Generator, count: int, *, rare: bool = False) -> tuple[Array, list[Thing]]:
    """Draw one picture, [1, 3, 96, 96] in 0..1, with ``count`` objects; ``rare`` adds a white bar."""
    image = np.empty((3, SIDE, SIDE), np.float32)
    slope = np.linspace(-0.1, 0.1, SIDE)
    image[:] = draw.uniform(0.25, 0.5) + draw.uniform(-1, 1) * slope + draw.uniform(-1, 1) * slope[:, np.newaxis]
    rows, columns = np.mgrid[:SIDE, :SIDE]
    things: list[Thing] = []
    kinds = [int(kind) for kind in draw.integers(0, 3, count)] + [3] * rare
    for kind in kinds:
        for _ in range(50):
            width = draw.uniform(12, 24)
            height = draw.uniform(6, 9) if kind == 3 else (width if kind == 1 else draw.uniform(12, 24))
            x, y = draw.uniform(width / 2, SIDE - width / 2), draw.uniform(height / 2, SIDE - height / 2)
            if all(
                abs(x - t.x) > (width + t.width) / 2 + 4 or abs(y - t.y) > (height + t.height) / 2 + 4 for t in things
            ):
                break
        else:
            continue
        inside = (np.abs(columns - x) <= width / 2) & (np.abs(rows - y) <= height / 2)
        if kind == 1:
            inside = (columns - x) ** 2 + (rows - y) ** 2 <= (width / 2) ** 2
        image[:, inside] = np.array(COLORS[kind], np.float32)[:, np.newaxis] * draw.uniform(0.85, 1.0)
        things.append(Thing(kind, x, y, width, height))
    image += draw.normal(0, 0.02, image.shape)
    return np.clip(image, 0, 1)[np.newaxis].astype(np.float32), things


def pictures(count: int = 16, *, seed: int = 5) -> list[Sample]:
    """Draw validation pictures: one in eight has the rare class, one in eight is empty."""
    draw = np.random.default_rng(seed)
    return [
        {"images": picture(draw, 0 if number % 8 == 7 else 1 + number % 3, rare=number % 8 == 3)[0]}
        for number in range(count)
    ]


def blank_pictures(count: int = 8) -> list[Sample]:
    """Draw pictures without objects: no class fires anywhere."""
    draw = np.random.default_rng(17)
    return [{"images": picture(draw, 0)[0]} for _ in range(count)]


@lru_cache(maxsize=1)
def weights() -> dict[str, Array]:
    """Return the weights: random filters, and the head fitted on 400 drawn pictures (about three seconds)."""
    draw = np.random.default_rng(1)
    values = {"w1": _filters(draw, 16, 3), "w2": _filters(draw, 32, 16), "w3": _filters(draw, 64, 32)}
    values |= {"w4": _filters(draw, FEATURES, 64)}
    values |= {
        name: draw.normal(0, 0.1, size).astype(np.float32) for name, size in (("b1", 16), ("b2", 32), ("b3", 64))
    }
    values["b4"] = draw.normal(0, 0.3, FEATURES).astype(np.float32)
    draw = np.random.default_rng(2)
    drawn = [picture(draw, 1 + number % 4, rare=number % 4 == 0) for number in range(400)]
    nodes, last = _backbone()
    features = run(
        _model(nodes, [last], [[1, FEATURES, CELLS, CELLS]], values), [{"images": image} for image, _ in drawn]
    )
    table = np.concatenate([sample[last].reshape(FEATURES, ANCHORS).T for sample in features]).astype(np.float64)
    scale = table.std(axis=0) + 1e-6
    table = np.hstack([table / scale, np.ones((len(table), 1))])
    scores, boxes = (np.concatenate(part) for part in zip(*(_targets(things) for _, things in drawn), strict=True))
    positive = scores.max(axis=1) > 0
    kept = positive | (np.arange(len(table)) % KEPT_NEGATIVES == 0)
    fitted = [_logistic(table[kept], scores[kept, kind]) for kind in range(CLASSES)]
    fitted += [_ridge(table[positive], boxes[positive, part]) for part in range(4)]
    head = np.stack(fitted)
    head[:CLASSES, -1] -= np.log(KEPT_NEGATIVES) / 2  # negatives are sampled; half of the correction favors recall
    values["w_cls"], values["w_box"] = (
        (part[:, :-1] / scale).astype(np.float32)[:, :, np.newaxis, np.newaxis]
        for part in (head[:CLASSES], head[CLASSES:])
    )
    values["b_cls"], values["b_box"] = head[:CLASSES, -1].astype(np.float32), head[CLASSES:, -1].astype(np.float32)
    return values


def _filters(draw: np.random.Generator, outputs: int, inputs: int) -> Array:
    return (draw.normal(size=(outputs, inputs, 3, 3)) * np.sqrt(2 / (9 * inputs))).astype(np.float32)


def _targets(things: list[Thing]) -> tuple[Array, Array]:
    """Return class targets [anchors, classes] and box targets [anchors, 4]: offsets of center, logarithms of size."""
    scores, boxes = np.zeros((ANCHORS, CLASSES)), np.zeros((ANCHORS, 4))
    for thing in things:
        for row in range(CELLS):
            for column in range(CELLS):
                x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
                if abs(x - thing.x) < max(thing.width / 4, 4.01) and abs(y - thing.y) < max(thing.height / 4, 4.01):
                    scores[row * CELLS + column, thing.kind] = 1
                    offsets = (thing.x - x) / STRIDE, (thing.y - y) / STRIDE
                    sizes = np.log(thing.width / STRIDE), np.log(thing.height / STRIDE)
                    boxes[row * CELLS + column] = (*offsets, *sizes)
    return scores, boxes


def _logistic(table: Array, target: Array) -> Array:
    """Fit by Newton's method with a ridge of 3."""
    solution = np.zeros(table.shape[1])
    ridge = 3.0 * np.eye(table.shape[1])
    for _ in range(7):
        chance = 1 / (1 + np.exp(-np.clip(table @ solution, -30, 30)))
        weight = chance * (1 - chance) + 1e-6
        gradient = table.T @ (target - chance) - ridge @ solution
        solution += np.linalg.solve(table.T @ (table * weight[:, np.newaxis]) + ridge, gradient)
    return solution


def _ridge(table: Array, target: Array) -> Array:
    solved: Array = np.linalg.solve(table.T @ table + 3.0 * np.eye(table.shape[1]), table.T @ target)
    return solved


# Graphs


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _backbone() -> tuple[list[NodeProto], str]:
    nodes, value = [], "images"
    for number in (1, 2, 3, 4):
        stride = 1 if number == 4 else 2
        inputs = [value, f"w{number}", f"b{number}"]
        nodes.append(_node("Conv", inputs, f"conv{number}", pads=[1, 1, 1, 1], strides=[stride, stride]))
        value = f"relu{number}"
        nodes.append(_node("Relu", [f"conv{number}"], value))
    return nodes, value


def _head() -> tuple[list[NodeProto], dict[str, Array]]:
    """Return the nodes for ``boxes`` [1, 4, anchors] (center and size in pixels) and ``scores`` [1, 4, anchors]."""
    nodes, last = _backbone()
    nodes += [
        _node("Conv", [last, "w_cls", "b_cls"], "cls_map"),
        _node("Conv", [last, "w_box", "b_box"], "box_map"),
        _node("Reshape", ["cls_map", "cls_shape"], "cls_logits"),
        _node("Sigmoid", ["cls_logits"], "scores"),
        _node("Reshape", ["box_map", "box_shape"], "box_flat"),
        helper.make_node("Split", ["box_flat", "halves"], ["offsets", "logs"], name="box_split", axis=1),
        _node("Add", ["offsets", "grid"], "centers_cells"),
        _node("Mul", ["centers_cells", "stride"], "centers"),
        _node("Clip", ["logs", "log_min", "log_max"], "logs_clipped"),
        _node("Exp", ["logs_clipped"], "sizes_cells"),
        _node("Mul", ["sizes_cells", "stride"], "sizes"),
        _node("Concat", ["centers", "sizes"], "boxes", axis=1),
    ]
    rows, columns = np.mgrid[:CELLS, :CELLS]
    grid = (np.stack([columns.ravel(), rows.ravel()])[np.newaxis] + 0.5).astype(np.float32)
    constants = {
        "cls_shape": np.array([1, CLASSES, ANCHORS], np.int64),
        "box_shape": np.array([1, 4, ANCHORS], np.int64),
        "halves": np.array([2, 2], np.int64),
        "grid": grid,
        "stride": np.array(STRIDE, np.float32),
        "log_min": np.array(-2, np.float32),
        "log_max": np.array(3, np.float32),
    }
    return nodes, constants


def _model(
    nodes: list[NodeProto],
    names: list[str],
    shapes: list[Any],
    values: dict[str, Array],
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    outputs = [
        helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in values.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def one_tensor() -> onnx.ModelProto:
    """Return the head of YOLOv8 and later: ``output0`` [1, 4 + classes, anchors]."""
    nodes, constants = _head()
    nodes.append(_node("Concat", ["boxes", "scores"], "output0", axis=1))
    return _model(nodes, ["output0"], [[1, 4 + CLASSES, ANCHORS]], weights() | constants)


def anchors_first() -> onnx.ModelProto:
    """Return the head of YOLOv5 and YOLOX: ``output`` [1, anchors, 5 + classes] with objectness before the classes."""
    nodes, constants = _head()
    nodes += [
        _node("ReduceMax", ["scores"], "objectness", axes=[1], keepdims=1),
        _node("Div", ["scores", "objectness"], "shares"),
        _node("Concat", ["boxes", "objectness", "shares"], "rows", axis=1),
        _node("Transpose", ["rows"], "output", perm=[0, 2, 1]),
    ]
    return _model(nodes, ["output"], [[1, ANCHORS, 5 + CLASSES]], weights() | constants)


def separate() -> onnx.ModelProto:
    """Return two outputs: ``boxes`` [1, anchors, 4] as corners in pixels, and ``scores`` [1, anchors, classes]."""
    nodes, constants = _corners()
    nodes += [
        _node("Transpose", ["corner_rows"], "out_boxes", perm=[0, 2, 1]),
        _node("Transpose", ["scores"], "out_scores", perm=[0, 2, 1]),
    ]
    shapes = [[1, ANCHORS, 4], [1, ANCHORS, CLASSES]]
    return _model(nodes, ["out_boxes", "out_scores"], shapes, weights() | constants)


def _corners() -> tuple[list[NodeProto], dict[str, Array]]:
    nodes, constants = _head()
    nodes += [
        _node("Mul", ["sizes", "half"], "half_sizes"),
        _node("Sub", ["centers", "half_sizes"], "first_corners"),
        _node("Add", ["centers", "half_sizes"], "last_corners"),
        _node("Concat", ["first_corners", "last_corners"], "corner_rows", axis=1),
    ]
    return nodes, constants | {"half": np.array(0.5, np.float32)}


def detections() -> onnx.ModelProto:
    """Return what non-maximum suppression leaves: ``det_boxes`` [n, 4], ``det_scores`` [n], ``det_labels`` [n]."""
    nodes, constants = _corners()
    nodes += [
        _node("Transpose", ["corner_rows"], "nms_boxes", perm=[0, 2, 1]),
        _node("NonMaxSuppression", ["nms_boxes", "scores", "most", "overlap", "threshold"], "kept"),
        _node("Gather", ["kept", "column_1"], "det_labels", axis=1),
        _node("Gather", ["kept", "column_2"], "kept_anchors", axis=1),
        _node("Squeeze", ["nms_boxes", "axis_0"], "boxes_2d"),
        _node("Gather", ["boxes_2d", "kept_anchors"], "det_boxes"),
        _node("Transpose", ["scores"], "scores_t", perm=[0, 2, 1]),
        _node("Squeeze", ["scores_t", "axis_0"], "scores_2d"),
        _node("Unsqueeze", ["kept_anchors", "axis_1"], "i0"),
        _node("Unsqueeze", ["det_labels", "axis_1"], "i1"),
        _node("Concat", ["i0", "i1"], "indices", axis=1),
        _node("GatherND", ["scores_2d", "indices"], "det_scores"),
    ]
    constants |= {
        "most": np.array(20, np.int64),
        "overlap": np.array(0.4, np.float32),
        "threshold": np.array(0.35, np.float32),
        "column_1": np.array(1, np.int64),
        "column_2": np.array(2, np.int64),
        "axis_0": np.array([0], np.int64),
        "axis_1": np.array([1], np.int64),
    }
    names, shapes = ["det_boxes", "det_scores", "det_labels"], [["n", 4], ["n"], ["n"]]
    return _model(nodes, names, shapes, weights() | constants, {"det_labels": TensorProto.INT64})


def ranked(*, last_first: bool = False) -> onnx.ModelProto:
    """Return the ten best anchors and each anchor's best class, by scores of one decimal, which are often equal.

    :param last_first: of equal scores take the last one instead of the first, as another kernel may.
    """
    nodes, constants = _head()
    nodes += [
        _node("Mul", ["scores", "ten"], "tens"),
        _node("Round", ["tens"], "whole_tens"),
        _node("Div", ["whole_tens", "ten"], "class_scores"),
        _node("ReduceMax", ["class_scores"], "best_scores", axes=[1], keepdims=0),
        _node("ArgMax", ["class_scores"], "labels", axis=1, keepdims=0, select_last_index=int(last_first)),
    ]
    if last_first:
        # TopK takes the first of equal values, so it sees the anchors in reverse.
        nodes += [
            _node("Gather", ["best_scores", "reverse"], "best_reversed", axis=1),
            helper.make_node("TopK", ["best_reversed", "ten_i"], ["top_scores", "top_reversed"], name="top", axis=1),
            _node("Sub", ["last_anchor", "top_reversed"], "top_anchors"),
        ]
    else:
        nodes.append(
            helper.make_node("TopK", ["best_scores", "ten_i"], ["top_scores", "top_anchors"], name="top", axis=1)
        )
    constants |= {
        "ten": np.array(10, np.float32),
        "ten_i": np.array([10], np.int64),
        "reverse": np.arange(ANCHORS)[::-1].copy(),
        "last_anchor": np.array(ANCHORS - 1, np.int64),
    }
    names = ["class_scores", "top_scores", "top_anchors", "labels"]
    shapes = [[1, CLASSES, ANCHORS], [1, 10], [1, 10], [1, ANCHORS]]
    whole = {"top_anchors": TensorProto.INT64, "labels": TensorProto.INT64}
    return _model(nodes, names, shapes, weights() | constants, whole)
