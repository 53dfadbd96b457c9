"""Ranges from calibration samples: the same as ONNX Runtime's own, in the memory of one sample."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, HistogramCollector, create_calibrator
from pass_jobs import helper_module, picture_model, pictures

calibration = helper_module("_quantization.calibration")
histograms = helper_module("_quantization.histograms")
OPS = ["Conv", "Gemm"]


class AtOnce:
    """All samples in one go, as a script hands them to ONNX Runtime."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._left: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)


def measured(folder: Path, feeds: list[dict[str, Any]], name: str, **how: Any) -> dict[str, Any]:
    onnx.save(picture_model(), folder / "model.onnx")
    reader = calibration.SampleReader(lambda: iter(feeds), len(feeds), ["x"])
    method = calibration.Method(name, **how)
    ranges: dict[str, Any] = calibration.measure(
        folder / "model.onnx", OPS, method, reader, scratch=folder / "augmented.onnx"
    )
    return ranges


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("MinMax", {}),
        ("Percentile", {"percentile": 99.9, "symmetric": True}),
        ("Percentile", {"percentile": 99.0, "symmetric": False}),
        ("Distribution", {}),
    ],
)
def test_one_sample_at_a_time_gives_what_onnx_runtime_finds_in_all_together(
    tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    feeds, _ = pictures(20)
    ours = measured(tmp_path, feeds, name, **how)
    options = {key: value for key, value in how.items() if key in ("percentile", "symmetric")}
    calibrator = create_calibrator(
        tmp_path / "model.onnx",
        OPS,
        augmented_model_path=str(tmp_path / "theirs.onnx"),
        calibrate_method=CalibrationMethod[name],
        extra_options=options,
    )
    calibrator.collect_data(AtOnce(feeds))
    theirs = calibrator.compute_data()
    assert set(ours) == set(theirs.keys())
    for tensor, found in ours.items():
        expected = theirs[tensor]
        width = 2 * max(abs(found.lowest), abs(found.highest)) / 2048
        if name == "Distribution":
            # Theirs is taken from the middles of the bins.
            assert found.mean == pytest.approx(float(expected.avg), abs=width)
            assert found.deviation == pytest.approx(float(expected.std), abs=width)
        else:
            # A percentile of ours is the outer edge of the bin, theirs the inner one.
            assert found.lowest == pytest.approx(float(np.ravel(expected.range_value[0])[0]), abs=2 * width)
            assert found.highest == pytest.approx(float(np.ravel(expected.range_value[1])[0]), abs=2 * width)


def test_a_histogram_does_not_depend_on_which_sample_comes_first(tmp_path: Path) -> None:
    feeds, _ = pictures(12)
    # A first sample of tiny values makes a calibrator that fixes its bins by it add millions of them.
    tiny = {"x": feeds[0]["x"] * 1e-6}
    first = measured(tmp_path, [tiny, *feeds], "Entropy", bins=512)
    last = measured(tmp_path, [*feeds, tiny], "Entropy", bins=512)
    assert first == last


def test_entropy_cuts_outliers_off_as_onnx_runtime_does() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(size=50_000), draw.normal(size=20) * 15]).astype(np.float32)
    reach = float(np.abs(values).max())
    counts, edges = np.histogram(values, 512, range=(-reach, reach))
    collector = HistogramCollector("entropy", False, 512, 128, 99.9, "same")
    histogram = (counts, edges.astype(np.float32), values.min(), values.max())
    theirs = collector.get_entropy_threshold(histogram, 128)
    ours = histograms.entropy_threshold(counts, edges)
    assert ours == pytest.approx(float(theirs[1]), rel=0.1)
    assert 3 < ours < reach / 2


def test_percentile_keeps_the_share_that_was_asked_for() -> None:
    values = np.random.default_rng(1).exponential(size=20_000)
    counts, edges = np.histogram(values, 2048, range=(0, values.max()))
    low, high = histograms.percentile_range(counts, edges, 99.0, symmetric=True)
    assert low == -high
    assert 0.99 <= float(np.mean(values <= high)) < 0.993
    # Nearly everything is zero: the range still holds what was asked for.
    counts, edges = np.histogram(np.append(np.zeros(9999), 1.0), 2048, range=(0, 1))
    assert histograms.percentile_range(counts, edges, 99.9, symmetric=True)[1] == pytest.approx(1 / 2048)


def test_nan_in_a_sample_is_named(tmp_path: Path) -> None:
    feeds, _ = pictures(4)
    broken = {"x": feeds[0]["x"].copy()}
    broken["x"][0, 0, 0, 0] = np.nan
    for name in ("MinMax", "Entropy"):
        with pytest.raises(ValueError, match="Calibration sample 4 has NaN in the input x"):
            measured(tmp_path, [*feeds, broken], name)


def test_nan_that_the_model_makes_is_named_by_tensor(tmp_path: Path) -> None:
    feeds, _ = pictures(2)
    endless = {"x": np.full((1, 3, 16, 16), np.inf, np.float32)}
    with pytest.raises(ValueError, match="The float model itself gives NaN in c1"):
        measured(tmp_path, [*feeds, endless], "Entropy")


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from ortforge.plugins.passes._quantization import calibration
folder, method, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
draw = np.random.default_rng(0)
feeds = lambda: ({"x": draw.random((8, 3, 16, 16), np.float32)} for _ in range(count))
reader = calibration.SampleReader(feeds, count, ["x"])
calibration.measure(
    folder / "model.onnx", ["Conv", "Gemm"], calibration.Method(method), reader,
    scratch=folder / "augmented.onnx",
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("method", ["MinMax", "Percentile"])
def test_memory_does_not_grow_with_the_samples(tmp_path: Path, method: str) -> None:
    onnx.save(picture_model(), tmp_path / "model.onnx")
    peaks = []
    for count in (10, 300):
        argv = [sys.executable, "-c", MEMORY, str(tmp_path), method, str(count)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    # 300 samples' activations are 300 x 8 x (3 + 2 x 16 + 2 x 24 / 4) x 1 KB: 110 MB and more, were they kept.
    assert peaks[1] < peaks[0] + 20_000
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
