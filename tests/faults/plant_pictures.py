"""Faults of maps and pictures: PP-OCRv4's text detector and a filter with uint8 pictures."""

from __future__ import annotations

import numpy as np
import onnx
from graph_edits import become, nodes, put, set_attribute, values
from planting import Array, Candidate, Outputs, Sample, fault, in_array, in_feeds, in_model, in_outputs

MAP, IMAGE = "sigmoid_0.tmp_0", "image"


def _det(name: str, description: str, candidate: Candidate, family: str = "maps") -> None:
    fault("det", name, description, candidate, output=MAP, family=family)


def _upper_dead(array: Array) -> None:
    array[:, :, :160] = 0


def _moved(array: Array) -> Array:
    return np.roll(array, 6, axis=-1)


def _flipped(array: Array) -> Array:
    return array[:, :, ::-1].copy()


def _no_sigmoid(model: onnx.ModelProto) -> None:
    become(nodes(model, "Sigmoid")[-1], "Identity")


def _no_upper_clip(model: onnx.ModelProto) -> None:
    # Hard swish is x * clip(x + 3, 0, 6) / 6: the clip loses its upper limit.
    for one in nodes(model, "Clip"):
        put(model, one.input[2], np.full_like(values(model, one.input[2]), 1e30))


def _channels_dead(model: onnx.ModelProto) -> None:
    convolution = nodes(model, "ConvTranspose")[0]
    weights = values(model, convolution.input[1])
    weights[: len(weights) // 3] = 0
    put(model, convolution.input[1], weights)


def _bn_variance(model: onnx.ModelProto) -> None:
    for norm in nodes(model, "BatchNormalization"):
        put(model, norm.input[4], (values(model, norm.input[4]) + 1e-5) ** 2)


def _resize(model: onnx.ModelProto) -> None:
    # Nearest neighbours of a shifted grid.
    for one in nodes(model, "Resize"):
        set_attribute(one, "coordinate_transformation_mode", "align_corners")


def _bgr(feeds: list[Sample]) -> list[Sample]:
    return [{"x": feed["x"] * np.float32(0.1)} for feed in feeds]


def _line_lost(outputs: Outputs) -> None:
    # The text of a band of 40 rows of the first page is gone.
    outputs[0][MAP][:, :, 100:140] = 0


_det("map-zero", "the map is 0 everywhere", in_array(MAP, np.zeros_like))
_det("map-saturated", "the map is 1 everywhere", in_array(MAP, np.ones_like))
_det("upper-half-dead", "the upper half of the map is 0", in_array(MAP, _upper_dead))
_det("line-lost", "one band of one page is 0", in_outputs(_line_lost))
_det("moved", "the map is moved by 6 pixels", in_array(MAP, _moved))
_det("flipped", "the map is upside down", in_array(MAP, _flipped))
_det("sigmoid-dropped", "logits instead of probabilities", in_model(_no_sigmoid), "graph or weights")
_det("clip-without-top", "the clips of hard swish have no upper limit", in_model(_no_upper_clip), "graph or weights")
_det("channels-dead", "a third of the channels before the map is 0", in_model(_channels_dead), "graph or weights")
_det(
    "bn-fold-wrong",
    "BatchNormalization divides by the variance instead of its root",
    in_model(_bn_variance),
    "graph or weights",
)
_det("resize-grid", "Resize uses another grid of coordinates", in_model(_resize), "graph or weights")
_det("contrast-lost", "the pictures have a tenth of their contrast", in_feeds(_bgr), "inputs")


def _image(name: str, description: str, change: object) -> None:
    fault("sharpen", name, description, in_array(IMAGE, change), output=IMAGE, family="pictures")  # type: ignore[arg-type]


def _wrapped(array: Array) -> Array:
    return (array.astype(np.int16) + 60).astype(np.uint8)


def _left_black(array: Array) -> None:
    array[:, :, :80] = 0


def _channel_black(array: Array) -> None:
    array[..., 1] = 0


_image("black", "the picture is black", np.zeros_like)
_image("channels-reversed", "red and blue are swapped", lambda array: array[..., ::-1].copy())
_image("negative", "the picture is a negative", lambda array: 255 - array)
_image("overflow", "values wrap around at 255", _wrapped)
_image("third-black", "a third of the picture is black", _left_black)
_image("green-black", "one color channel is 0", _channel_black)
_image("float-instead", "the picture is float32 instead of uint8", lambda array: array.astype(np.float32))
_image("columns-off", "the picture is moved by 4 columns", lambda array: np.roll(array, 4, axis=2))


def _unrounded(model: onnx.ModelProto) -> None:
    # 0..1 instead of 0..255 before the conversion to integers.
    put(model, "top", np.array(1, np.float32))


fault(
    "sharpen",
    "clipped-at-one",
    "the picture is clipped at 1 instead of 255",
    in_model(_unrounded),
    output=IMAGE,
    family="graph or weights",
)
