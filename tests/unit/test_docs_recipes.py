"""The pages of docs/recipes: what they tell to paste is valid and would run, and they name what there is."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ortforge.api import PassUse
from ortforge.cli.shared import known
from ortforge.matrix import load
from ortforge.plugin_manager import Plugins

PAGES = Path(__file__).resolve().parents[2] / "docs" / "recipes"

AROUND = """
[models.pasted-into]
path = "path:model.onnx"
calibration = "path:data/calibration"

[targets.stock]
from = "package"
requires = ["onnxruntime-gpu==1.31.1"]
eps = ["cpu", "cuda", "tensorrt"]
"""

OWN_EP = {"bfloat16": "cuda", "mixed-precision": "cuda", "tensorrt-calibration": "tensorrt"}
"""Passes that are for certain EPs alone, as their pages say."""

PAGE_OF = {"quantize-tensorrt": "tensorrt", "tensorrt-calibration": "tensorrt"}


def examples() -> Iterator[tuple[str, str]]:
    for page in sorted(PAGES.glob("*.md")):
        found = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        yield from ((f"{page.stem}-{number}", text) for number, text in enumerate(found))


EXAMPLES = dict(examples())


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins(third_party=False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_pasted_into_a_matrix_and_is_planned_without_an_objection(
    tmp_path: Path, plugins: Plugins, name: str
) -> None:
    path = tmp_path / "matrix.toml"
    path.write_text(f"{AROUND}\n{EXAMPLES[name]}", encoding="utf-8")
    matrix = load(path, known(plugins))
    assert matrix.warnings == ()
    pasted = tomllib.loads(EXAMPLES[name])["recipes"]
    assert pasted
    for recipe in pasted:
        passes = [(plugins.passes[use.use], use.typed) for use in matrix.recipes[recipe].passes]
        ep = next((OWN_EP[one.name] for one, _ in passes if one.name in OWN_EP), "cpu")
        before: tuple[str, ...] = ()
        for one, typed in passes:
            assert one.objection(PassUse(typed, before, "1.31.1", ep, True)) == ""
            before = (*before, one.kind)


def test_every_page_has_an_example_and_every_pass_a_page_that_shows_it(plugins: Plugins) -> None:
    assert {name.rpartition("-")[0] for name in EXAMPLES} == {page.stem for page in PAGES.glob("*.md")}
    for name in plugins.passes:
        own = [text for key, text in EXAMPLES.items() if key.startswith(f"{PAGE_OF.get(name, name)}-")]
        short_form = name == "quantize-auto" and any("quantize = { auto = true" in text for text in own)
        assert short_form or any(f'use = "{name}"' in text for text in own), name


def test_pages_name_all_parameters_of_their_passes_and_no_others(plugins: Plugins) -> None:
    for name, one in plugins.passes.items():
        page = (PAGES / f"{PAGE_OF.get(name, name)}.md").read_text("utf-8")
        parameters = {field.name for field in dataclasses.fields(one.parameters)}
        assert parameters <= set(re.findall(r"\w+", page)), f"{name}: not on its page"
        first_columns = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", page, re.MULTILINE)
        listed = {text for column in first_columns for text in re.findall(r"`([a-z_]+)`", column)}
        others = {field.name for other in plugins.passes.values() for field in dataclasses.fields(other.parameters)}
        assert not (listed & others) - parameters or name in PAGE_OF, f"{name}: {listed & others - parameters}"


def test_the_table_of_passes_has_them_all(plugins: Plugins) -> None:
    table = (PAGES.parent / "recipes.md").read_text("utf-8")
    for name in plugins.passes:
        assert f"| `{name}` |" in table, name
        assert f"(recipes/{PAGE_OF.get(name, name)}.md)" in table, name
