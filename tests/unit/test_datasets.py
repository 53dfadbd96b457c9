"""Datasets: what files, functions and seeds become samples, and what is refused with which words."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from ortforge.plugins.datasets import path, python, random_inputs

from ortforge.api import FetchError
from ortforge.plan.recorded_files import changed_file
from ortforge.runtime.supervisor import JobOutcome
from ortforge.worker.materialize import DatasetJob
from ortforge.worker.samples import Samples, SampleWriter

Supervise = Callable[..., JobOutcome]
IMAGE = [{"name": "x", "dtype": "float32", "shape": [None, 3, 4, 4]}]
TEXT = [
    {"name": "ids", "dtype": "int64", "shape": ["batch", "sequence"]},
    {"name": "mask", "dtype": "int64", "shape": ["batch", "sequence"]},
]


def make(
    module: ModuleType,
    base: Path,
    reference: str,
    inputs: list[dict[str, Any]],
    *,
    limit: int = 0,
    options: Mapping[str, Any] | None = None,
) -> tuple[Samples, list[Any] | None]:
    """Make a dataset with the worker's own writer, and read it back."""
    folder = base / "made"
    number = len(list(base.glob("made*")))
    writer = SampleWriter(folder.with_name(f"made{number}"), [entry["name"] for entry in inputs])
    details = module.materialize(DatasetJob(reference, base, options or {}, inputs, limit, writer.write))
    writer.close(random=details["random"])
    samples = Samples(writer.folder)
    return samples, samples.labels


# path:


def test_one_file_per_sample_in_natural_order(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in (0, 2, 10):
        np.savez(data / f"{number}.npz", x=np.full((1, 3, 4, 4), number, np.float32), label=number)
    samples, labels = make(path, tmp_path, "data", IMAGE)
    assert [feeds["x"].max() for feeds in samples] == [0, 2, 10]
    assert labels == [0, 2, 10]


def test_one_file_whose_first_axis_counts_samples(tmp_path: Path) -> None:
    images = np.arange(5 * 3 * 16, dtype=np.float32).reshape(5, 3, 4, 4)
    np.savez(tmp_path / "batched.npz", x=images, labels=np.arange(5))
    np.savez(tmp_path / "whole.npz", x=images[:, np.newaxis])
    batched, labels = make(path, tmp_path, "batched.npz", IMAGE)
    whole, none = make(path, tmp_path, "whole.npz", IMAGE)
    assert batched.count == whole.count == 5
    assert all(left["x"].shape == (1, 3, 4, 4) for left in batched)
    assert all((left["x"] == right["x"]).all() for left, right in zip(batched, whole, strict=True))
    assert labels == [0, 1, 2, 3, 4]
    assert none is None


def test_a_model_with_a_fixed_batch_gets_slices_of_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((6, 3), np.float32))
    samples, _ = make(path, tmp_path, "x.npy", [{"name": "x", "dtype": "float32", "shape": [2, 3]}])
    assert [feeds["x"].shape for feeds in samples] == [(2, 3)] * 3


def test_an_array_without_axes_is_the_same_in_all_samples(tmp_path: Path) -> None:
    inputs = [{"name": "x", "dtype": "float32", "shape": [None, 8]}, {"name": "rate", "dtype": "int64", "shape": []}]
    np.savez(tmp_path / "sound.npz", x=np.zeros((3, 8), np.float32), rate=16000)
    samples, _ = make(path, tmp_path, "sound.npz", inputs)
    assert [int(feeds["rate"]) for feeds in samples] == [16000] * 3


def test_onnx_test_data_with_labels(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / "model" / f"test_data_set_{number}"
        folder.mkdir(parents=True)
        for position, entry in enumerate(TEXT):
            tensor = numpy_helper.from_array(
                np.full((1, 7), number * 10 + position), name="" if number else entry["name"]
            )
            (folder / f"input_{position}.pb").write_bytes(tensor.SerializeToString())
    (tmp_path / "model" / "labels.json").write_text(json.dumps({"test_data_set_0": "a", "test_data_set_1": "b"}))
    samples, labels = make(path, tmp_path, "model", TEXT)
    assert [(feeds["ids"].max(), feeds["mask"].max()) for feeds in samples] == [(0, 1), (10, 11)]
    assert labels == ["a", "b"]
    single, _ = make(path, tmp_path, "model/test_data_set_1", TEXT)
    assert single.count == 1


def test_the_limit_ends_reading(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100, 3, 4, 4), np.float32))
    assert make(path, tmp_path, "x.npy", IMAGE, limit=7)[0].count == 7


def test_float64_and_narrow_integers_are_converted(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=np.ones((2, 5), np.int32), mask=np.ones((2, 5), np.uint8))
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 4, 4)))
    assert make(path, tmp_path, "t.npz", TEXT)[0][0]["ids"].dtype == np.int64
    assert make(path, tmp_path, "x.npy", IMAGE)[0][0]["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"imags": np.zeros((1, 3, 4, 4))}, "no input of the model"),
        ({"X": np.zeros((1, 3, 4, 4)), "x": np.zeros((1, 3, 4, 4))}, "X, which is no input"),
        ({"x": np.zeros((1, 3, 5, 4))}, r"has shape \[1, 3, 5, 4\], and the model wants \[\?, 3, 4, 4\]"),
        ({"x": np.zeros((1, 3, 4, 4), np.uint8)}, "is uint8, and the model wants float32"),
        ({"x": np.zeros((2, 3, 4, 4)), "label": np.arange(3)}, "2 samples and 3 labels"),
        ({"x": np.array([{"a": 1}], dtype=object)}, "Python objects"),
        ({"label": np.arange(3)}, "lacks the model's input x"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        make(path, tmp_path, "data.npz", IMAGE)


def test_damaged_and_unsuitable_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "cut.npz", x=np.zeros((4, 3, 4, 4)))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        make(path, tmp_path, "cut.npz", IMAGE)
    np.save(tmp_path / "one.npy", np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"the model has 2 inputs: use \.npz"):
        make(path, tmp_path, "one.npy", TEXT)
    folder = tmp_path / "set" / "test_data_set_0"
    folder.mkdir(parents=True)
    (folder / "input_0.pb").write_bytes(b"\xff not a tensor")
    with pytest.raises(ValueError, match="not a tensor"):
        make(path, tmp_path, "set", IMAGE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no samples"):
        make(path, tmp_path, "empty", IMAGE)


def test_labels_must_be_as_many_as_samples(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "0.npy", np.zeros((1, 3, 4, 4)))
    (data / "labels.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds 2 labels, and there are 1 samples"):
        make(path, tmp_path, "data", IMAGE)
    (data / "labels.json").write_text('{"zero": 1}')
    with pytest.raises(ValueError, match="no label for 0"):
        make(path, tmp_path, "data", IMAGE)


def test_path_fingerprint_sees_content_and_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.npy").write_bytes(b"1")
    first = path.fingerprint("data", tmp_path)
    assert path.fingerprint("data", tmp_path) == first
    (data / "a.npy").rename(data / "b.npy")
    second = path.fingerprint("data", tmp_path)
    (data / "b.npy").write_bytes(b"2")
    assert len({first, second, path.fingerprint("data", tmp_path)}) == 3
    with pytest.raises(FetchError) as caught:
        path.fingerprint("date", tmp_path)
    assert "Perhaps data was meant" in caught.value.meant


# python:

FUNCTIONS = """
import numpy as np

def plain():
    yield {"x": np.ones((1, 3, 4, 4), np.float32)}

def labelled(limit, seed, split):
    for number in range(limit):
        yield {"x": np.full((1, 3, 4, 4), seed + number, np.float32)}, np.int64(split == "calibration")

def everything(**given):
    yield {"x": np.zeros((1, 3, 4, 4), np.float32)}, sorted(given)

class Reader:
    def __init__(self, options):
        self.left = options["count"]

    def get_next(self):
        if not self.left:
            return None
        self.left -= 1
        return {"x": np.zeros((1, 3, 4, 4), np.float32)}

def wrong_name():
    yield {"X": 1}

def needs(path):
    yield {}

def returns_dict():
    return {"x": 1}

def objects():
    yield {"x": [object()]}

def nothing():
    return []

def endless():
    while True:
        yield {"x": np.zeros((1, 3, 4, 4), np.float32)}
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "feed_functions.py").write_text(FUNCTIONS)
    return tmp_path


def test_functions_are_given_what_they_take(functions: Path) -> None:
    options = {"seed": 5, "split": "calibration", "count": 3}
    assert make(python, functions, "feed_functions.py:plain", IMAGE)[0].count == 1
    samples, labels = make(python, functions, "feed_functions.py:labelled", IMAGE, limit=4, options=options)
    assert [int(feeds["x"].max()) for feeds in samples] == [5, 6, 7, 8]
    assert labels == [1, 1, 1, 1]
    assert make(python, functions, "feed_functions.py:everything", IMAGE, options=options)[1] == [
        ["inputs", "limit", "options", "seed", "split"]
    ]


def test_calibration_data_readers_and_modules_are_taken(functions: Path) -> None:
    samples, _ = make(python, functions, "feed_functions:Reader", IMAGE, options={"count": 3})
    assert samples.count == 3


def test_an_endless_function_ends_at_the_limit(functions: Path) -> None:
    assert make(python, functions, "feed_functions.py:endless", IMAGE, limit=5)[0].count == 5


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wrong_name", "X, which is no input of the model"),
        ("needs", "needs path; it can be given limit"),
        ("returns_dict", "returned a dict"),
        ("objects", "Python objects for x"),
        ("nothing", "gave no samples"),
        ("plian", "perhaps plain was meant"),
    ],
)
def test_functions_that_do_not_serve_are_refused(functions: Path, function: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(python, functions, f"feed_functions.py:{function}", IMAGE)


def test_python_fingerprint_sees_the_file_and_none_beside_it(functions: Path) -> None:
    reference = "feed_functions.py:plain"
    seen = {python.fingerprint(reference, functions)}
    (functions / "helper.py").write_text("A = 1\n")
    seen.add(python.fingerprint(reference, functions))
    (functions / "feed_functions.py").write_text(FUNCTIONS + "\n# changed\n")
    seen.add(python.fingerprint(reference, functions))
    seen.add(python.fingerprint("feed_functions.py:labelled", functions))
    assert len(seen) == 3
    for wrong in ("feed_functions.py", "feeds.py:plain", "feed_functions.py:"):
        with pytest.raises(FetchError):
            python.fingerprint(wrong, functions)


def test_a_dataset_is_made_in_a_worker_process(functions: Path) -> None:
    job = {
        "op": "materialize",
        "module": python.__file__,
        "reference": "feed_functions.py:labelled",
        "base": str(functions),
        "options": {"seed": 1, "split": "validation"},
        "inputs": IMAGE,
        "limit": 3,
        "output": str(functions / "samples"),
        "process": {"result": str(functions / "result.json")},
    }
    # Its standard input stays open while it works: a worker whose supervisor is gone ends itself.
    with subprocess.Popen(
        [sys.executable, "-m", "ortforge.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as worker:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        assert worker.wait(60) == 0
    result = json.loads((functions / "result.json").read_text())
    assert (result["count"], result["random"], result["labels"]) == (3, False, True)
    assert Samples(functions / "samples").labels == [0, 0, 0]


READER = """
import json
from pathlib import Path
import numpy as np
import scale_helper

HERE = Path(__file__).parent

def samples():
    for path in sorted((HERE / "inputs").glob("*.npy")):
        yield {"x": np.load(path) * scale_helper.FACTOR}
    (HERE / "cache.json").write_text("{}")
    json.loads((HERE / "cache.json").read_text())
    try:
        (HERE / "missing.txt").read_text()
    except FileNotFoundError:
        pass

def drifting():
    for number, path in enumerate(sorted((HERE / "inputs").glob("*.npy"))):
        array = np.load(path)
        np.save(HERE / "inputs" / "0.npy", array) if number else None
        yield {"x": array}
"""


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "inputs").mkdir(parents=True)
    for number in range(3):
        np.save(folder / "inputs" / f"{number}.npy", np.full((1, 3, 4, 4), number, np.float32))
    (folder / "reader.py").write_text(READER)
    (folder / "scale_helper.py").write_text("FACTOR = 2\n")
    (folder / "unrelated.py").write_text("1\n")
    return folder


def recorded(supervise: Supervise, folder: Path, function: str = "samples", **more: Any) -> JobOutcome:
    job = {
        "op": "materialize",
        "module": python.__file__,
        "reference": f"reader.py:{function}",
        "base": str(folder),
        "options": {},
        "inputs": IMAGE,
        "limit": 0,
        "output": str(folder.parent / f"samples-{len(list(folder.parent.glob('samples-*')))}"),
        "record_files": True,
        **more,
    }
    return supervise(job)


def test_files_that_a_function_reads_are_recorded(supervise: Supervise, reader: Path) -> None:
    outcome = recorded(supervise, reader)
    assert outcome.status == "ok", outcome.reason
    files = {entry["path"]: entry["kind"] for entry in outcome.result["files"]}
    data = {f"inputs/{number}.npy": "file" for number in range(3)}
    assert files == {**data, "inputs": "folder", "missing.txt": "file", "reader.py": "file", "scale_helper.py": "file"}
    # Nothing depends on whether bytecode of the helper was there already.
    assert recorded(supervise, reader).result["files"] == outcome.result["files"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "unrelated.py").write_text("2\n"), ""),
        (lambda folder: (folder / "new.py").write_text("2\n"), ""),
        (lambda folder: (folder / "cache.json").write_text("[]"), ""),
        (lambda folder: (folder / "scale_helper.py").write_text("FACTOR = 3\n"), "scale_helper.py"),
        (lambda folder: np.save(folder / "inputs/1.npy", np.zeros((1, 3, 4, 4), np.float32)), "inputs"),
        (lambda folder: np.save(folder / "inputs/9.npy", np.ones((1, 3, 4, 4), np.float32)), "inputs"),
        (lambda folder: (folder / "inputs/2.npy").unlink(), "inputs"),
        (lambda folder: (folder / "missing.txt").write_text("here now"), "missing.txt"),
    ],
)
def test_a_changed_file_is_noticed(
    supervise: Supervise, reader: Path, change: Callable[[Path], object], expected: str
) -> None:
    result = recorded(supervise, reader).result
    assert changed_file(result, reader) == ""
    change(reader)
    assert changed_file(result, reader) == expected


def test_files_behind_links_and_native_readers_are_known(supervise: Supervise, reader: Path) -> None:
    for name in ("one", "two"):
        (reader.parent / name).write_text(name)
    (reader / "chosen").symlink_to(reader.parent / "one")
    (reader / "images").mkdir()
    (reader / "images" / "a.raw").write_bytes(b"1234")
    code = """
import os, subprocess, sys
def linked():
    (HERE / "chosen").read_text()
    names = os.listdir(HERE / "images")
    subprocess.run(["cat", HERE / "images" / names[0]], stdout=subprocess.DEVNULL)
    yield {"x": np.zeros((1, 3, 4, 4), np.float32)}
"""
    (reader / "reader.py").write_text(READER + code)
    result = recorded(supervise, reader, "linked").result
    assert {"chosen", "images"} < {entry["path"] for entry in result["files"]}
    assert result["unseen"] == ["child processes"]
    (reader / "images" / "a.raw").write_bytes(b"12345")
    assert changed_file(result, reader) == "images"
    result = recorded(supervise, reader, "linked").result
    assert changed_file(result, reader) == ""
    (reader / "chosen").unlink()
    (reader / "chosen").symlink_to(reader.parent / "two")
    assert changed_file(result, reader) == "chosen"


def test_data_that_changes_while_it_is_read_is_refused(supervise: Supervise, reader: Path) -> None:
    np.save(reader / "inputs" / "0.npy", np.full((1, 3, 4, 4), 7, np.float32))
    text = (reader / "reader.py").read_text()
    # Another program writes: its writes are not those of the function.
    write = "__import__('subprocess').run(['sh', '-c', f'echo more >> {HERE}/inputs/0.npy'])"
    (reader / "reader.py").write_text(
        text.replace('np.save(HERE / "inputs" / "0.npy", array) if number else None', write)
    )
    outcome = recorded(supervise, reader, "drifting")
    assert outcome.status == "failed"
    assert "0.npy changed while the dataset was made" in outcome.reason


def test_the_first_samples_alone_are_made_for_a_comparison(supervise: Supervise, reader: Path) -> None:
    outcome = recorded(supervise, reader, stop_after=2, record_files=False)
    assert (outcome.result["count"], "files" in outcome.result) == (2, False)


# random:


def test_one_symbol_has_one_size_and_samples_are_labelled_random(tmp_path: Path) -> None:
    samples, labels = make(random_inputs, tmp_path, "", TEXT, limit=3, options={"sizes": {"sequence": 9}})
    assert samples.random
    assert labels is None
    assert [feeds["ids"].shape for feeds in samples] == [feeds["mask"].shape for feeds in samples] == [(1, 9)] * 3


@given(seed=st.integers(0, 2**31), split=st.sampled_from(["validation", "calibration"]))
@settings(max_examples=15, deadline=None)
def test_a_seed_always_gives_the_same_and_the_splits_differ(seed: int, split: str) -> None:
    def drawn(which: str) -> list[np.ndarray[Any, Any]]:
        kept: list[np.ndarray[Any, Any]] = []
        options = {"seed": seed, "split": which}
        random_inputs.materialize(
            DatasetJob("", Path(), options, IMAGE, 2, lambda feeds: kept.append(feeds["x"]) or True)
        )
        return kept

    other = "calibration" if split == "validation" else "validation"
    assert all((left == right).all() for left, right in zip(drawn(split), drawn(split), strict=True))
    assert not (drawn(split)[0] == drawn(other)[0]).any()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int8", -128, 127),
        ("int64", 0, 1),
        ("bool", 0, 1),
        ("float16", -9, 9),
        ("tensor(float)", -9, 9),
    ],
)
def test_values_suit_the_dtype(tmp_path: Path, dtype: str, low: float, high: float) -> None:
    inputs = [{"name": "x", "dtype": dtype, "shape": [64, 64]}]
    (feeds,) = make(random_inputs, tmp_path, "", inputs, limit=1)[0]
    assert str(feeds["x"].dtype) == {"tensor(float)": "float32"}.get(dtype, dtype)
    assert low <= feeds["x"].min() < feeds["x"].max() <= high


def test_ranges_and_strings(tmp_path: Path) -> None:
    inputs = [*TEXT, {"name": "word", "dtype": "string", "shape": [2]}]
    (feeds,) = make(random_inputs, tmp_path, "", inputs, limit=1, options={"ranges": {"ids": [100, 30000]}})[0]
    assert feeds["ids"].min() >= 100
    assert feeds["ids"].max() > 1
    assert feeds["word"].dtype.kind == "U"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": {"sequnce": 4}}, "no dimension of the model"),
        ({"ranges": {"id": [0, 1]}}, "no input of the model"),
        ({"size": 4}, "no option size"),
        ({"ranges": {"ids": [5, 2]}}, "does not fit"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(random_inputs, tmp_path, "", TEXT, options=options)


def test_every_source_is_listed_with_an_example_of_its_scheme() -> None:
    sources = [source for module in (path, python, random_inputs) for source in module.ortforge_datasets()]
    assert [source.scheme for source in sources] == ["path", "python", "random"]
    assert [source.random for source in sources] == [False, False, True]
    assert all(source.example.startswith(f"{source.scheme}:") and Path(source.module).is_file() for source in sources)


# The default matrix's inputs: what needs no pictures or recordings.


def test_files_for_magika_are_repeatable_and_kept_apart() -> None:
    source = Path(__file__).parents[2] / "examples" / "default" / "inputs.py"
    spec = importlib.util.spec_from_file_location("default_inputs", source)
    assert spec is not None
    assert spec.loader is not None
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    validation, again, calibration = (
        [(feeds["bytes"].tobytes(), label) for feeds, label in inputs.magika(24, 0, split)]
        for split in ("validation", "validation", "calibration")
    )
    assert validation == again
    assert not {tokens for tokens, _ in validation} & {tokens for tokens, _ in calibration}
    assert len({label for _, label in validation}) > 5


# random: decoders, token ids, and types that numpy lacks

DECODER: list[dict[str, Any]] = [
    {"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence_length"], "rows": 500},
    {"name": "attention_mask", "dtype": "int64", "shape": ["batch", "total_sequence_length"]},
    {"name": "position_ids", "dtype": "int64", "shape": ["batch", "sequence_length"]},
    {"name": "past_key_values.0.key", "dtype": "float32", "shape": ["batch", 2, "past_sequence_length", 4]},
    {"name": "past_key_values.0.value", "dtype": "float32", "shape": ["batch", 2, "past_sequence_length", 4]},
]
WITH_PAST: list[dict[str, Any]] = [
    {"name": "input_ids", "dtype": "int64", "shape": ["batch_size", 1]},
    {"name": "attention_mask", "dtype": "int64", "shape": ["batch_size", "past_sequence_length + 1"]},
    {"name": "past_key_values.0.key", "dtype": "float16", "shape": ["batch_size", 2, "past_sequence_length", 4]},
    {"name": "use_cache_branch", "dtype": "bool", "shape": [1]},
]
SHARED_BUFFER: list[dict[str, Any]] = [
    {"name": "input_ids", "dtype": "int64", "shape": ["batch", "seq"]},
    {"name": "seqlens_k", "dtype": "int32", "shape": ["batch"]},
    {"name": "total_sequence_length", "dtype": "int32", "shape": []},
    {"name": "past_key_0", "dtype": "float32", "shape": ["batch", 2, "max_sequence_length", 4]},
    {"name": "attention_mask", "dtype": "float32", "shape": ["batch", "mask_length"]},
]


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [
        (DECODER, {}),
        (DECODER, {"sequence_length": 3, "past_sequence_length": 5}),
        (DECODER, {"sequence_length": 3, "total_sequence_length": 12}),
        (WITH_PAST, {}),
        (WITH_PAST, {"past_sequence_length": 9}),
        (SHARED_BUFFER, {}),
        (SHARED_BUFFER, {"max_sequence_length": 64, "seq": 4}),
    ],
)
def test_the_lengths_of_a_decoder_fit_together(
    tmp_path: Path, inputs: list[dict[str, Any]], sizes: dict[str, int]
) -> None:
    samples, _ = make(random_inputs, tmp_path, "", inputs, limit=2, options={"sizes": sizes})
    for feeds in samples:
        cache = feeds[next(name for name in feeds if name.startswith("past"))].shape[2]
        new, total = feeds["input_ids"].shape[1], feeds["attention_mask"].shape[1]
        assert (feeds["attention_mask"] == 1).all() and feeds["input_ids"].max() <= 499
        if inputs is SHARED_BUFFER:  # the buffer has room for all positions
            assert cache >= total == feeds["total_sequence_length"] and feeds["seqlens_k"].tolist() == [total - 1]
        else:
            assert total == cache + new
        if "position_ids" in feeds:
            assert feeds["position_ids"].tolist() == [list(range(cache, total))]
        if "use_cache_branch" in feeds:
            assert feeds["use_cache_branch"].tolist() == [True]
        given = {"sequence_length": new, "seq": new, "past_sequence_length": cache, "max_sequence_length": cache}
        given["total_sequence_length"] = total
        assert all(given[name] == size for name, size in sizes.items())


def test_token_ids_lie_within_the_vocabulary_and_masks_keep_something(tmp_path: Path) -> None:
    inputs = [{**TEXT[0], "rows": 30522}, {"name": "attention_mask", "dtype": "int64", "shape": TEXT[0]["shape"]}]
    samples, _ = make(random_inputs, tmp_path, "", inputs, limit=8)
    ids = np.concatenate([feeds[TEXT[0]["name"]].ravel() for feeds in samples])
    assert 20000 < ids.max() < 30522 and ids.min() >= 0
    masks = [feeds["attention_mask"][0] for feeds in samples]
    assert all(mask[0] == 1 and set(mask.tolist()) <= {0, 1} and (np.diff(mask) <= 0).all() for mask in masks)
    assert len({int(mask.sum()) for mask in masks}) > 1


def test_types_that_numpy_lacks_sequences_and_optionals_are_generated(tmp_path: Path) -> None:
    kinds = ["bfloat16", "float8e4m3fn", "float8e5m2fnuz", "float8e8m0", "float4e2m1", "int4", "uint4", "int2", "uint2"]
    inputs: list[dict[str, Any]] = [{"name": kind, "dtype": kind, "shape": [5, 3]} for kind in kinds]
    inputs += [
        {"name": "s", "dtype": "seq(tensor(float32))", "shape": [], "element_shape": ["n", 4]},
        {"name": "o", "dtype": "optional(tensor(int64))", "shape": [], "element_shape": [2]},
    ]
    random_inputs_job = DatasetJob("", Path(), {}, inputs, 1, lambda feeds: drawn.append(feeds) or True)
    drawn: list[dict[str, Any]] = []
    random_inputs.materialize(random_inputs_job)
    (feeds,) = drawn
    assert all(feeds[kind].shape == (5, 3) and feeds[kind].dtype.itemsize in (1, 4) for kind in kinds)
    assert [item.shape for item in feeds["s"]] == [(1, 4)] * 3 and feeds["o"].shape == (2,)


@pytest.mark.parametrize("dtype", ["map(int64,tensor(float32))", "seq(map(string,tensor(float32)))"])
def test_maps_are_not_generated_and_the_reason_is_true(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"the keys that the model knows cannot be generated\. Give real data"):
        make(random_inputs, tmp_path, "", [{"name": "x", "dtype": dtype, "shape": []}])


def test_sequences_and_raw_bfloat16_in_npz_files(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    import ml_dtypes

    raw = np.array([1, -2.5], ml_dtypes.bfloat16)  # numpy keeps it as two bytes without a type
    np.savez(tmp_path / "d" / "0.npz", **{"s[0]": np.ones(2, np.float32), "s[1]": np.zeros(1, np.float32), "b": raw})
    np.savez(tmp_path / "d" / "1.npz", **{"s[]": np.zeros(0), "b": np.float32([0.1, 2])})
    inputs = [
        {"name": "s", "dtype": "seq(tensor(float32))", "shape": []},
        {"name": "b", "dtype": "bfloat16", "shape": [2]},
    ]
    drawn: list[dict[str, Any]] = []
    path.materialize(DatasetJob("d", tmp_path, {}, inputs, 0, lambda feeds, label=None: drawn.append(feeds) or True))
    assert [[item.tolist() for item in feeds["s"]] for feeds in drawn] == [[[1, 1], [0]], []]
    from ortforge.worker.tensors import nearest_feeds

    values = [nearest_feeds(feeds, {"b": "bfloat16"}, 0)["b"] for feeds in drawn]
    assert values[0].tolist() == [1, -2.5] and values[1].tolist() == [0.10009765625, 2]
