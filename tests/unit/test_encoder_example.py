"""The larger matrix: its inputs keep calibration apart, and it says what to do when the model was not exported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ortforge.cli.shared import known
from ortforge.matrix import cells, load
from ortforge.plugin_manager import Plugins
from ortforge.worker.module import load_module

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "encoder"


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return load_module(FOLDER / "inputs.py", "sentences")


def test_no_text_is_in_both_splits_and_all_are_prose(inputs: ModuleType) -> None:
    validation, calibration = inputs._paragraphs("validation"), inputs._paragraphs("calibration")
    assert len(validation) > 1000
    assert len(calibration) > 500
    lowered = {text.lower() for text in validation}
    assert lowered.isdisjoint(text.lower() for text in calibration)
    assert all(30 <= len(text) < 800 and "\n" not in text for text in validation)
    assert inputs._paragraphs("validation") == validation


def test_without_the_export_the_command_is_named(
    inputs: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inputs, "TOKENIZER", tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match=r"python examples/encoder/export\.py"):
        next(inputs.sentences())
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="--force"):
        next(inputs.sentences())


def test_the_matrix_is_valid_and_its_planted_recipe_is_the_quantizers_own_default() -> None:
    matrix = load(FOLDER / "matrix.toml", known(Plugins(third_party=False)))
    recipes = {cell.recipe for cell in cells(matrix)}
    assert {"none", "fused", "fp16", "int8-dynamic-channel", "int8-static-mixed", "int8-static-defaults"} <= recipes
    (planted,) = matrix.recipes["int8-static-defaults"].passes
    assert planted.use == "quantize-static"
    defaults = type(planted.typed)
    assert planted.typed == defaults()
