"""A first matrix.toml: it loads, it leads to the models, and it does not pretend that its data is real."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ortforge.api import Pass
from ortforge.errors import UsageError
from ortforge.matrix import Known, cells, load
from ortforge.matrix.initial import initial


@dataclass(frozen=True)
class Parameters:
    per_channel: bool = False


NAMES = ("preprocess", "quantize-dynamic", "quantize-static")
KNOWN = Known(
    backends=("cpu",),
    passes={name: Pass(name, "", Parameters, "/p.py", "quantize") for name in NAMES},
    model_schemes=("path",),
    dataset_schemes=("random", "path", "python"),
)


def model(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x08\x07")
    return path


def test_it_loads_and_its_references_lead_to_the_models(tmp_path: Path) -> None:
    paths = [
        model(tmp_path / "models" / "det.onnx"),
        model(tmp_path / "other" / "det.onnx"),
        model(tmp_path / "vad" / "model.onnx"),
        model(tmp_path / 'odd "näme" \x7f.ONNX'),
        model(tmp_path / "v1.2.onnx"),
    ]
    out = tmp_path / "config" / "matrix.toml"
    out.parent.mkdir()
    out.write_text(initial([*paths, paths[0]], out), encoding="utf-8")
    matrix = load(out, KNOWN)
    assert list(matrix.models) == ["det", "det-2", "vad", "odd-n-me", "v1.2"]
    for config, path in zip(matrix.models.values(), paths, strict=True):
        assert (matrix.base / config.path.removeprefix("path:")).resolve() == path.resolve()
    assert {cell.recipe for cell in cells(matrix)} == {"none", "int8-dynamic"}
    assert matrix.warnings == ()


def test_the_commented_recipe_works_when_it_is_taken_in(tmp_path: Path) -> None:
    out = tmp_path / "matrix.toml"
    text = initial([model(tmp_path / "m.onnx")], out)
    head, mark, tail = text.partition("# [recipes.int8-static]")
    lines = (mark + tail).split("\n")
    out.write_text(head + "\n".join(line.removeprefix("# ") for line in lines), encoding="utf-8")
    assert "int8-static" in load(out, KNOWN).recipes


def test_random_data_is_said_to_be_random(tmp_path: Path) -> None:
    text = initial([model(tmp_path / "m.onnx")], tmp_path / "matrix.toml")
    assert "# RANDOM DATA" in text
    assert 'validation = "path:data/validation.npz"' in text


def test_all_that_is_no_model_is_named_at_once(tmp_path: Path) -> None:
    model(tmp_path / "right.onnx")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.onnx").touch()
    wrong = [tmp_path / "rihgt.onnx", tmp_path / "notes.txt", tmp_path / "empty.onnx", tmp_path]
    with pytest.raises(UsageError) as caught:
        initial([*wrong, tmp_path / "right.onnx"], tmp_path / "matrix.toml")
    missing, text, empty, folder = caught.value.what.split("\n")
    assert f"Perhaps you meant {tmp_path / 'right.onnx'}" in missing
    assert "is no .onnx file" in text
    assert "is empty" in empty
    assert "is a folder. Perhaps you meant what is in it: empty.onnx, right.onnx" in folder


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No model"):
        initial([], tmp_path / "matrix.toml")
