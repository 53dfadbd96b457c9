"""Faults that ONNX Runtime's own quantizer makes: wrong calibration data, mixed outputs, masks, coarse weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from planting import Candidate, Outputs, Sample, Subject, fault, run


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Gives samples to the quantizer."""

    def __init__(self, feeds: list[Sample]) -> None:
        self.feeds: Iterator[Sample] = iter(feeds)

    def get_next(self) -> Sample | None:
        return next(self.feeds, None)


Feeds = Callable[[list[Sample]], list[Sample]]


def quantized(change: Feeds = lambda feeds: feeds, *, dynamic: bool = False, **settings: Any) -> Candidate:
    """Quantize with ONNX Runtime, calibrated on the subject's samples after ``change``, and run the result."""

    def candidate(subject: Subject) -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
            onnx.save(subject.model, source)
            if dynamic:
                quantization.quantize_dynamic(source, target, **settings)
            else:
                # A graph with shapes; the quantizer leaves out tensors whose type it does not know.
                quantization.quant_pre_process(str(source), str(source), skip_symbolic_shape=True)
                reader = Reader(change(subject.feeds))
                quantization.quantize_static(str(source), str(target), reader, **settings)
            return run(target.read_bytes(), subject.feeds)

    return candidate


def zeros(feeds: list[Sample]) -> list[Sample]:
    """Calibration data without content."""
    return [{name: np.zeros_like(array) for name, array in feed.items()} for feed in feeds[:2]]


def dimmed(feeds: list[Sample]) -> list[Sample]:
    """Calibration data in 0..1 divided by 255 once more."""
    return [{name: (array / 255).astype(array.dtype) for name, array in feed.items()} for feed in feeds[:4]]


def few(feeds: list[Sample]) -> list[Sample]:
    """The first samples."""
    return feeds[:2]


INT8, UINT8 = quantization.QuantType.QInt8, quantization.QuantType.QUInt8
QDQ = {"quant_format": quantization.QuantFormat.QDQ, "activation_type": UINT8, "weight_type": INT8}


def _fault(subject: str, name: str, description: str, candidate: Candidate, output: str) -> None:
    fault(subject, name, description, candidate, output=output, family="quantization")


_fault(
    "yolo",
    "concat-one-scale",
    "quantize_static gives boxes and scores one scale in their Concat",
    quantized(**QDQ),
    "output0",
)
_fault(
    "yolo5",
    "concat-one-scale",
    "quantize_static gives boxes and scores one scale in their Concat",
    quantized(**QDQ),
    "output",
)
_fault("yolo-pair", "calibrated-on-zeros", "static int8 calibrated on zeros", quantized(zeros, **QDQ), "out_scores")
_fault(
    "yolo-pair",
    "calibrated-on-dim",
    "static int8 calibrated on pictures of 1/255 of the contrast",
    quantized(dimmed, **QDQ),
    "out_scores",
)
_fault(
    "det",
    "int8-per-tensor",
    "static int8 with one scale per weight, which loses text",
    quantized(few, **QDQ),
    "sigmoid_0.tmp_0",
)
_fault("det", "calibrated-on-zeros", "static int8 calibrated on zeros", quantized(zeros, **QDQ), "sigmoid_0.tmp_0")
_fault(
    "cls",
    "calibrated-on-dim",
    "static int8 calibrated on pictures of 1/255 of the contrast",
    quantized(dimmed, **QDQ),
    "save_infer_model/scale_0.tmp_1",
)
_fault(
    "minilm",
    "int8-dynamic",
    "quantize_dynamic with one scale per weight",
    quantized(dynamic=True, weight_type=INT8),
    "token_embeddings",
)
_fault(
    "minilm-inf",
    "int8-static-masks",
    "static int8 takes the mask's values for data",
    quantized(few, **QDQ),
    "token_embeddings",
)
_fault(
    "minilm-scores",
    "int8-static-masks",
    "static int8 takes the mask's -1e9 for data",
    quantized(few, **QDQ),
    "token_embeddings",
)
