"""Samples folders: written and read back, without pickles."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ortforge.worker.protocol import JobError, plain
from ortforge.worker.samples import Samples, SampleWriter

ARRAYS = npst.arrays(
    dtype=st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_, np.complex64]),
    shape=npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


@settings(max_examples=30, deadline=None)
@given(samples=st.lists(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3), max_size=4))
def test_samples_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, samples: list[dict[str, np.ndarray]]
) -> None:
    folder = tmp_path_factory.mktemp("samples")
    writer = SampleWriter(folder)
    for sample in samples:
        writer.write(sample)
    writer.close()
    back = list(Samples(folder))
    assert len(back) == len(samples)
    for sample, other in zip(samples, back, strict=True):
        assert set(sample) == set(other)
        for name in sample:
            assert sample[name].dtype == other[name].dtype
            np.testing.assert_array_equal(sample[name], other[name])


def test_the_folder_is_as_documented(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path / "s", ["x", "state"])
    writer.write({"x": np.zeros(2, np.float32)}, label="cat")
    writer.write({"state": np.array(["a", "bc"], dtype=object), "x": [1, 2]}, label={"box": np.int64(3)})
    writer.close(random=True, source="python:module:function", widened=["x"])
    assert json.loads((tmp_path / "s" / "index.json").read_text()) == {
        "schema": 1,
        "count": 2,
        "names": ["x", "state"],
        "random": True,
        "labels": True,
        "source": "python:module:function",
        "widened": ["x"],
    }
    assert json.loads((tmp_path / "s" / "labels.json").read_text()) == ["cat", {"box": 3}]
    with zipfile.ZipFile(tmp_path / "s" / "000001.npz") as members:
        assert {item.filename: item.compress_type for item in members.infolist()} == {"0.npy": 0, "1.npy": 0}
    samples = Samples(tmp_path / "s")
    assert samples.labels == ["cat", {"box": 3}]
    assert set(samples[0]) == {"x"}  # an optional input that this sample lacks
    assert samples[1]["state"].dtype.kind == "U"
    assert [path.name for path in samples.paths] == ["000000.npz", "000001.npz"]


def test_python_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="'x' of sample 0 holds Python objects") as refused:
        SampleWriter(tmp_path).write({"x": np.array([{"a": 1}, None], dtype=object)})
    assert refused.value.kind == "input"


def test_labels_are_for_all_samples_or_for_none(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    writer.write({"x": np.ones(1)}, label=1)
    writer.write({"x": np.ones(1)})
    with pytest.raises(JobError, match="1 of 2 samples have a label"):
        writer.close()


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path)
    writer.write({"x": np.ones(1)})
    writer.close()
    pickled: dict[str, Any] = {"0": np.array([object()], dtype=object)}
    np.savez(tmp_path / "000000.npz", **pickled)
    with pytest.raises(JobError, match="sample 0 cannot be read"):
        Samples(tmp_path)[0]


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"names": 3, "count": 1}'])
def test_a_folder_that_is_none(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(JobError, match="no folder of samples") as refused:
        Samples(tmp_path)
    assert refused.value.kind == "input"


def test_results_become_plain_json() -> None:
    value = {"a": (np.float32(1.5), np.nan, float("-inf")), 3: np.arange(2), "p": Path("x"), "s": {"b", "a"}}
    assert plain(value) == {"a": [1.5, None, None], "3": [0, 1], "p": "x", "s": ["a", "b"]}
    with pytest.raises(JobError, match="holds a object"):
        plain({"x": object()})
