"""``tensorrt-calibration``: the ranges that TensorRT's EP makes an int8 engine with, in files beside the float model.

The model stays as it is: TensorRT quantizes while it builds the engine. What the files hold, and that the EP reads
``calibration.flatbuffers``, is ONNX Runtime's documentation of the TensorRT EP (``trt_int8_*``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ._models import model_file, onnx_graph
from ._quantization import calibration, data_guards

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

EP_NAME: Final = "TensorrtExecutionProvider"
TABLE: Final = "calibration.flatbuffers"
FILES: Final = (TABLE, "calibration.json", "calibration.cache")


@dataclass(frozen=True)
class Parameters:
    """What ``tensorrt-calibration`` can be told."""

    calibrate_method: Literal["MinMax", "Entropy", "Percentile"] = field(
        default="Entropy",
        metadata={"doc": "how ranges are taken from the data; Entropy is TensorRT's own way for CNNs"},
    )
    percentile: float = field(default=99.999, metadata={"doc": "share of values inside the range, for Percentile"})
    bins: int = field(default=1024, metadata={"doc": "bins of the histograms of Entropy and Percentile"})
    fp16: bool = field(default=True, metadata={"doc": "let TensorRT use fp16 where int8 would be no faster"})


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="tensorrt-calibration",
            summary="a calibration table, from which TensorRT makes an int8 engine of the float model",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            needs_calibration=True,
            per_ep=True,
            objection=_objection,
            example={"calibrate_method": "Entropy"},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted = use.parameters
    if use.ep != "tensorrt":
        return (
            f"only TensorRT reads a calibration table, and the EP here is {use.ep}; quantize-static is for all others"
        )
    if not use.has_calibration:
        return "it needs calibration data; give the model a calibration dataset"
    if not 50 < wanted.percentile <= 100:
        return f"percentile is {wanted.percentile:g}; it is a share in per cent, such as 99.99"
    if not 256 <= wanted.bins <= 65536:
        return f"bins is {wanted.bins}; give 256 to 65536"
    usual, method = Parameters(), wanted.calibrate_method
    if wanted.percentile != usual.percentile and method != "Percentile":
        return f"percentile goes with calibrate_method = 'Percentile', and it is {method!r}"
    if wanted.bins != usual.bins and method == "MinMax":
        return "bins are those of Entropy and Percentile, and calibrate_method is 'MinMax'"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Copy the model to ``job.output`` and write the table beside it.

    :raises ValueError: no calibration data, data that does not fit, or a model that is quantized already.
    :raises RuntimeError: the model does not run on the data.
    """
    wanted = Parameters(**job.parameters)
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    if not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    model = model_file.load(source)
    if done := onnx_graph.quantized_ops(model):
        listed = ", ".join(f"{n} {op}" for op, n in list(done.items())[:4])
        raise ValueError(
            f"The model is quantized already ({listed}), and TensorRT reads its ranges there. "
            "Use the float model, or leave this pass out."
        )
    watch = data_guards.DataWatch()
    inputs = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    reader = calibration.SampleReader(job.feeds, len(job.samples), inputs, watch.see)
    method = calibration.Method(wanted.calibrate_method, percentile=wanted.percentile, bins=wanted.bins, symmetric=True)
    # ONNX Runtime's calibrator reads the file that it is given and writes beside it, so not the model where it lies.
    prepared = workdir / "prepared.onnx"
    model_file.stand_in(source, prepared)
    every_operator: list[str] = []
    ranges = calibration.measure(
        prepared,
        every_operator,
        method,
        reader,
        scratch=workdir / "augmented.onnx",
    )
    if not ranges:
        raise ValueError("The model has no tensor of floats whose range could be measured. Leave this pass out.")
    model_file.copy(source, output)
    write_table(ranges, wanted.calibrate_method, output.parent)
    random = data_guards.declared_random(job.samples)
    complaints = [random, *(text for text in watch.complaints() if not (random and text.startswith("RANDOM")))]
    return {
        "calibration_samples": len(job.samples),
        "tensors": len(ranges),
        "files": list(FILES),
        "ep_options": _options(fp16=wanted.fp16) if job.ep_name == EP_NAME else {},
        "warnings": [text for text in complaints if text],
    }


def _options(*, fp16: bool) -> dict[str, str]:
    """Return the EP's options; the worker puts the folder of the model in the place of ``{model_folder}``."""
    return {
        "trt_int8_enable": "1",
        "trt_int8_calibration_table_name": "{model_folder}/" + TABLE,
        "trt_int8_use_native_calibration_table": "0",
        **({"trt_fp16_enable": "1"} if fp16 else {}),
    }


def write_table(ranges: dict[str, calibration.Range], method: str, folder: Path) -> None:
    """Write the table in ONNX Runtime's three forms: flatbuffers (which the EP reads), JSON and text.

    TensorRT's ranges are symmetric. ONNX Runtime writes the greater of a range's two ends, which for values that are
    mostly negative is the wrong one: so both ends are given as the larger magnitude. And they are arrays, since the
    JSON encoder of ONNX Runtime 1.21 refuses numpy's scalars.
    """
    import numpy as np
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.quant_utils import write_calibration_table

    made = {}
    for name, one in ranges.items():
        reach = max(abs(one.lowest), abs(one.highest))
        made[name] = TensorData(lowest=np.array(-reach, np.float32), highest=np.array(reach, np.float32))
    write_calibration_table(TensorsData(CalibrationMethod[method], made), str(folder))


def read_table(path: Path) -> dict[str, float]:
    """Read ``calibration.flatbuffers`` back: the largest magnitude of each tensor, as the EP takes it."""
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    table = TrtTable.GetRootAs(path.read_bytes(), 0)
    entries = [table.Dict(place) for place in range(table.DictLength())]
    return {entry.Key().decode("utf-8"): float(entry.Value()) for entry in entries}
