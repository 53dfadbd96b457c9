"""examples/tensorrt on its two trained models: QDQ in TensorRT's form, and tables like ONNX Runtime's own.

TensorRT itself is not needed. The float models come out of Python packages, as the matrix says.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from command import ROOT, ortforge
from onnx import numpy_helper

from ortforge.worker.apply import PassJob
from ortforge.worker.module import load_module
from ortforge.worker.samples import Samples

EXAMPLE = ROOT / "examples" / "tensorrt"
CALIBRATION, VALIDATION = 3, 4
MODELS = {"nsfw": "input:0", "yolox": "images"}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Run the matrix's MinMax QDQ cells with few samples; return the store and the cells by model."""
    folder = tmp_path_factory.mktemp("tensorrt")
    shutil.copy(EXAMPLE / "inputs.py", folder)
    text = (EXAMPLE / "matrix.toml").read_text(encoding="utf-8")
    for long, short in (("limit = 32", f"limit = {CALIBRATION}"), ("limit = 24", f"limit = {VALIDATION}")):
        assert text.count(long) == len(MODELS)
        text = text.replace(long, short)
    (folder / "matrix.toml").write_text(text.replace("timing_s = 2.0", "timing_s = 0"), encoding="utf-8")
    cells = [part for name in MODELS for part in ("--cell", f"{name}/trt-qdq-minmax@*")]
    done = ortforge(folder, "run", "--store", str(folder / "store"), "--json", *cells)
    assert done.code in (0, 1), done.err
    return folder / "store", done.cells


def models_of(store: Path, entry: str, *, quantized: bool) -> list[Path]:
    """Find the models in the store by their input."""
    found = []
    for path in sorted((store / "objects").rglob("*.onnx")):
        model = onnx.load(path)
        is_quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        if model.graph.input[0].name == entry and is_quantized == quantized:
            found.append(path)
    return found


def calibration_of(store: Path, entry: str) -> Samples:
    # Reports of checks have an index.json, too, without names of inputs.
    indices = [path for path in (store / "objects").rglob("index.json") if "names" in path.read_text("utf-8")]
    folders = [path.parent for path in indices if "count" in json.loads(path.read_text("utf-8"))]
    (found,) = (
        samples for samples in map(Samples, folders) if samples.names == (entry,) and samples.count == CALIBRATION
    )
    return found


@pytest.fixture(scope="module")
def calibrating() -> ModuleType:
    return load_module(ROOT / "plugins" / "passes" / "tensorrt_calibration.py", "apply")


def test_tensorrts_cells_say_why_they_did_not_run(example: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, cells = example
    elsewhere = {name: cell for name, cell in cells.items() if "nvidia" in name}
    assert len(elsewhere) == len(MODELS)
    if not Path("/dev/nvidia0").exists():
        assert {cell["status"] for cell in elsewhere.values()} == {"unsupported"}


@pytest.mark.parametrize("name", MODELS)
def test_qdq_is_in_tensorrts_form(example: tuple[Path, dict[str, dict[str, Any]]], name: str) -> None:
    (path,) = models_of(example[0], MODELS[name], quantized=True)
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        zero = arrays[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any(), node.name
    assert all(arrays[node.input[1]].size == 1 for node in pairs if node.op_type == "QuantizeLinear")
    makers = {output: node for node in pairs for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == {"nsfw": 53, "yolox": 83}[name]
    for node in convolutions:
        weight = makers[node.input[1]]
        assert arrays[weight.input[1]].size == arrays[weight.input[0]].shape[0], node.name
        # A bias in float is an initializer that no pair of QDQ makes.
        assert len(node.input) < 3 or arrays[node.input[2]].dtype == np.float32, node.name
    assert not any(array.dtype == np.int32 for array in arrays.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_table_is_what_onnx_runtimes_own_calibrator_writes(
    example: tuple[Path, dict[str, dict[str, Any]]], calibrating: ModuleType, tmp_path: Path, name: str
) -> None:
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
    from onnxruntime.quantization.quant_utils import write_calibration_table

    source = models_of(example[0], MODELS[name], quantized=False)[0]
    samples = calibration_of(example[0], MODELS[name])
    for part in ("work", "ours", "theirs"):
        (tmp_path / part).mkdir()
    said = calibrating.apply(_job(source, samples, tmp_path))
    assert said["tensors"] > 100 and said["ep_options"]["trt_int8_enable"] == "1"

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        feeds = iter(samples)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            source,
            [],
            augmented_model_path=str(tmp_path / "work" / "theirs.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"symmetric": True},
        )
        calibrator.collect_data(Reader())
        write_calibration_table(calibrator.compute_data(), str(tmp_path / "theirs"))
    ours, theirs = (calibrating.read_table(tmp_path / side / calibrating.TABLE) for side in ("ours", "theirs"))
    assert ours == pytest.approx(theirs, rel=1e-5)
    texts = [(tmp_path / side / "calibration.cache").read_text().split()[::2] for side in ("ours", "theirs")]
    assert sorted(texts[0]) == sorted(texts[1]) == sorted(ours)


def _job(model: Path, samples: Samples, folder: Path) -> PassJob:
    import onnxruntime

    return PassJob(
        model=model,
        output=folder / "ours" / "model.onnx",
        parameters={"calibrate_method": "MinMax"},
        samples=tuple(samples.paths),
        folder=samples.folder,
        ep="tensorrt",
        ep_name="TensorrtExecutionProvider",
        ep_options={},
        ort_version=onnxruntime.__version__,
        cpu_flags=(),
        workdir=folder / "work",
    )
