"""Lists, globs, include and exclude to cells: which ones, in which order, and how fast."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ortforge.api import Pass
from ortforge.matrix import CellSpec, Known, Matrix, cells, load


@dataclass(frozen=True)
class Nothing:
    pass


KNOWN = Known(
    backends=("cpu", "openvino"),
    passes={"p": Pass("p", "", Nothing, "/p.py", "optimize")},
    model_schemes=("path",),
    dataset_schemes=("random",),
)
BASE = """\
[models.cls]
path = "path:cls.onnx"
[models.det]
path = "path:det.onnx"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.ov]
from = "package"
requires = ["onnxruntime-openvino==1.24.1"]
eps = ["cpu", "openvino", { name = "openvino", options = { device_type = "GPU" } }]
[recipes.int8]
passes = ["p"]
[recipes.fp16]
passes = ["p"]
"""
USES = [("stock", "cpu"), ("ov", "cpu"), ("ov", "openvino"), ("ov", "openvino#2")]
ALL = [(m, r, t, e) for m in ("cls", "det") for r in ("none", "int8", "fp16") for t, e in USES]


def read(folder: Path, text: str) -> Matrix:
    file = folder / "matrix.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, KNOWN)


def names(spec: CellSpec) -> tuple[str, str, str, str]:
    return spec.model, spec.recipe, spec.target, spec.ep.label


def chosen(folder: Path, entry: str) -> list[tuple[str, str, str, str]]:
    return [names(spec) for spec in cells(read(folder, BASE + entry))]


def test_without_entries_all_meets_all_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert chosen(tmp_path, "") == ALL


def test_lists_take_names_and_globs(tmp_path: Path) -> None:
    entry = '[[matrix]]\ntargets = ["st*"]\nmodels = "det"\nrecipes = ["none", "i*"]\n'
    assert chosen(tmp_path, entry) == [("det", "none", "stock", "cpu"), ("det", "int8", "stock", "cpu")]


def test_an_ep_is_chosen_by_name_for_all_its_uses_or_by_label_for_one(tmp_path: Path) -> None:
    one = '[[matrix]]\nmodels = ["cls"]\nrecipes = ["none"]\neps = '
    assert [cell[3] for cell in chosen(tmp_path, one + '["openvino"]')] == ["openvino", "openvino#2"]
    assert [cell[3] for cell in chosen(tmp_path, one + '["openvino#2"]')] == ["openvino#2"]


def test_exclude_takes_out_what_all_its_keys_match(tmp_path: Path) -> None:
    entry = '[[matrix]]\nexclude = [{ target = "ov", recipe = ["int8", "fp*"] }, { model = "det", ep = "openvino" }]\n'
    assert chosen(tmp_path, entry) == [
        cell
        for cell in ALL
        if not (cell[2] == "ov" and cell[1] != "none") and not (cell[0] == "det" and cell[3].startswith("openvino"))
    ]


def test_include_adds_after_exclusions_and_beyond_the_lists(tmp_path: Path) -> None:
    entry = (
        '[[matrix]]\nmodels = ["cls"]\ntargets = ["stock"]\nexclude = [{ recipe = "fp16" }]\n'
        'include = [{ recipe = "fp16", target = "ov", ep = "cpu" }, { model = "det", recipe = "none" }]\n'
    )
    assert chosen(tmp_path, entry) == [
        ("cls", "none", "stock", "cpu"),
        ("cls", "int8", "stock", "cpu"),
        ("cls", "fp16", "ov", "cpu"),
        ("det", "none", "stock", "cpu"),
    ]


def test_a_cell_of_two_entries_is_run_once(tmp_path: Path) -> None:
    entry = '[[matrix]]\nmodels = ["det"]\n[[matrix]]\n'
    found = chosen(tmp_path, entry)
    assert sorted(found) == sorted(ALL)
    assert [cell[0] for cell in found] == ["det"] * 12 + ["cls"] * 12


GLOBS = {
    "model": ["*", "cls", "d*"],
    "recipe": ["none", "int8", "*16", "*"],
    "target": ["stock", "o?", "*"],
    "ep": ["cpu", "openvino", "openvino#2", "open*"],
}
SELECTIONS = st.fixed_dictionaries(
    {}, optional={key: st.lists(st.sampled_from(values), min_size=1, max_size=2) for key, values in GLOBS.items()}
).filter(bool)


def takes(selection: dict[str, list[str]], cell: tuple[str, str, str, str]) -> bool:
    values = {"model": [cell[0]], "recipe": [cell[1]], "target": [cell[2]], "ep": [cell[3], cell[3].split("#")[0]]}
    return all(
        any(fnmatchcase(name, glob) for name in values[key] for glob in globs) for key, globs in selection.items()
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(SELECTIONS, max_size=3))
def test_exclusions_are_what_a_walk_over_all_cells_would_take(
    tmp_path: Path, selections: list[dict[str, list[str]]]
) -> None:
    written = ", ".join(
        "{ " + ", ".join(f"{key} = {list(globs)}" for key, globs in selection.items()) + " }"
        for selection in selections
    )
    # The second entry keeps one cell, so that excluding all is no error.
    entry = f"[[matrix]]\nexclude = [{written}]\n[[matrix]]\nmodels = 'cls'\nrecipes = 'none'\ntargets = 'stock'\n"
    left = [cell for cell in ALL if not any(takes(selection, cell) for selection in selections)]
    assert chosen(tmp_path, entry) == left + ([] if ALL[0] in left else [ALL[0]])


def test_ten_thousand_cells_expand_well_under_a_second(tmp_path: Path) -> None:
    models = "".join(f'[models.m{n}]\npath = "path:{n}.onnx"\n' for n in range(50))
    recipes = "".join(f'[recipes.r{n}]\npasses = ["p"]\n' for n in range(19))
    targets = "".join(f'[targets.t{n}]\nfrom = "package"\nrequires = ["onnxruntime"]\n' for n in range(10))
    exclude = ", ".join(f'{{ model = "m{n}", recipe = "r{n}", target = "t{n}" }}' for n in range(9))
    matrix = read(tmp_path, models + recipes + targets + f"[[matrix]]\nexclude = [{exclude}]\n")
    started = time.process_time()
    count = len(list(cells(matrix)))
    assert count == 10_000 - 9
    assert time.process_time() - started < 0.5
