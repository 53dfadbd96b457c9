"""Keys and digests: equal for equal content, different for different content, on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import time
import timeit
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.errors import StoreError
from ortforge.store.hashing import (
    PIECE,
    canonical,
    digest_bytes,
    digest_file,
    digest_json,
    digest_tree,
    sha256_file,
)

_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def _reversed(value: Any) -> Any:
    """The same value with the keys of every dict in the opposite order."""
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return [_reversed(item) for item in value]
    return value


def _exact(value: Any) -> Any:
    """A form in which 1, 1.0, True and -0.0, which Python calls equal, differ."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return (type(value).__name__, repr(value))


@given(_values)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    assert canonical(_reversed(value)) == canonical(value)


@given(_values)
def test_canonical_json_is_json_and_reads_back_as_the_same_value(value: Any) -> None:
    assert _exact(json.loads(canonical(value))) == _exact(value)


@given(_values, _values)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert (digest_json(one) == digest_json(other)) == (_exact(one) == _exact(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, None),
        ("1", 1),
        ([], {}),
        (["ab"], ["a", "b"]),
        ({"a": {"b": 1}}, {"a": {}, "b": 1}),
        ("é", "e\u0301"),
    ],
)
def test_look_alikes_differ(one: Any, other: Any) -> None:
    assert digest_json(one) != digest_json(other)


def test_tuples_are_lists_and_text_is_utf8() -> None:
    assert canonical({"naïve": (1, "ü"), "a": [None, True, 0.5]}) == '{"a":[null,true,0.5],"naïve":[1,"ü"]}'.encode()


def test_a_digest_is_the_same_on_every_machine_and_in_every_version() -> None:
    # What `b2sum --length 160` says of the same bytes.
    assert digest_json({"version": 1, "kind": "time"}) == "6a9406041edba958346b5a8e9c3074e1b55d6491"
    assert digest_bytes(b"") == "3345524abf6bbe1809449224b5972c41790b6cf2"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"scale": [1.0, math.nan]}, "value['scale'][1] is nan"),
        ([math.inf], "value[0] is inf"),
        ({"a": {1: "x"}}, "value['a'] has the key 1"),
        ({"a": {None: "x"}}, "value['a'] has the key None"),
        ({"a": 1, 2: 3}, "value has the key 2"),
        ({"shape": {1, 2}}, "value['shape'] is a builtins.set"),
        ({"path": Path("x")}, "value['path'] is a pathlib"),
        ([b"bytes"], "value[0] is a builtins.bytes"),
        (["\ud800"], "value[0] is '\\ud800', which is not valid Unicode"),
        ({"\udc80": 1}, "a key of value is"),
    ],
)
def test_what_json_cannot_say_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        digest_json(value)
    assert says in str(caught.value)


def test_numpy_scalars_are_refused_or_exact() -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match=r"value\['n'\] is a numpy\.int64"):
        canonical({"n": numpy.int64(3)})
    assert canonical(numpy.float64(0.1)) == canonical(0.1)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = [loop]
    with pytest.raises(TypeError, match="contains itself"):
        canonical(loop)


def test_deep_nesting_is_refused_and_does_not_kill_the_process() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="nested too deeply"):
        canonical(deep)


def test_enumerations_are_written_as_what_they_are() -> None:
    class Level(IntEnum):
        HIGH = 3

    assert canonical([Level.HIGH]) == b"[3]"


def test_a_small_digest_takes_microseconds() -> None:
    value = {"kind": "check", "version": 1, "parameters": {"ep": "cpu", "threads": 2}, "inputs": ["ab" * 20, "cd" * 20]}
    digest_json(value)
    best = min(timeit.repeat(lambda: digest_json(value), timer=time.process_time, number=1000, repeat=5)) / 1000
    assert best < 15e-6 * 4  # the aim is 15 µs; four times that, for a machine that is busy


def test_file_digests_stream_and_agree_with_bytes(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    file = tmp_path / "weights.bin"
    file.write_bytes(data)
    assert digest_file(file) == digest_bytes(data) == hashlib.blake2b(data, digest_size=20).hexdigest()
    assert sha256_file(file) == hashlib.sha256(data).hexdigest()


def test_every_byte_of_a_large_file_counts_in_a_tree(tmp_path: Path) -> None:
    """Of files that are hashed in pieces: the first and the last byte of each, and where the file ends."""
    data = bytearray(os.urandom(2 * PIECE + 5))
    file = tmp_path / "weights.bin"
    digests = []
    for place in (None, 0, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, 2 * PIECE + 4):
        if place is not None:
            data[place] ^= 1
        file.write_bytes(data)
        digests += [digest_tree(file), digest_tree(tmp_path)]
    file.write_bytes(data[:-1])
    digests += [digest_tree(file)]
    swapped = data[PIECE : 2 * PIECE] + data[:PIECE] + data[2 * PIECE :]
    file.write_bytes(swapped)
    digests += [digest_tree(file)]
    assert len(set(digests)) == len(digests)
    file.write_bytes(data)
    assert digest_tree(file) == digests[-4]


def _tree(root: Path) -> Path:
    (root / "sub").mkdir(parents=True)
    (root / "model.onnx").write_bytes(b"model")
    (root / "sub" / "weights.bin").write_bytes(b"weights")
    return root


def test_a_tree_is_known_by_its_content_and_not_by_name_time_or_write_permission(tmp_path: Path) -> None:
    one, other = _tree(tmp_path / "one"), _tree(tmp_path / "other")
    os.utime(other / "model.onnx", (1, 1))
    (other / "model.onnx").chmod(0o444)
    assert digest_tree(one) == digest_tree(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "model.onnx").write_bytes(b"modeL"),
        lambda root: (root / "model.onnx").chmod(0o755),
        lambda root: (root / "model.onnx").rename(root / "sub" / "model.onnx"),
        lambda root: (root / "more").write_bytes(b""),
        lambda root: (root / "empty").mkdir(),
        lambda root: (root / "sub" / "weights.bin").unlink(),
    ],
    ids=["content", "executable", "moved", "added", "empty folder", "removed"],
)
def test_every_change_of_a_tree_shows(tmp_path: Path, change: Any) -> None:
    root = _tree(tmp_path / "tree")
    before = digest_tree(root)
    change(root)
    assert digest_tree(root) != before


def test_a_file_and_a_folder_never_share_a_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"x")
    assert digest_tree(tmp_path / "file") != digest_tree(tmp_path / "folder")


def test_links_devices_and_odd_names_are_refused(tmp_path: Path) -> None:
    linked = _tree(tmp_path / "linked")
    (linked / "sub" / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="symbolic link"):
        digest_tree(linked)
    special = _tree(tmp_path / "special")
    os.mkfifo(special / "pipe")
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        digest_tree(special)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(StoreError, match="neither a file nor a folder"):
            digest_tree(tmp_path / "socket")
    odd = _tree(tmp_path / "odd")
    with Path(os.fsdecode(bytes(odd) + b"/\xff.bin")).open("wb"):
        pass
    with pytest.raises(StoreError, match="not UTF-8"):
        digest_tree(odd)
