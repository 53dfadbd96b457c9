"""Who gets calibration data, and how calibration and validation data are held against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from ortforge.plugins.passes._auto import scheme_table

from ortforge.api import Device
from ortforge.cli.shared import known
from ortforge.engine.cells import WITHOUT_RANGES, judge_cell
from ortforge.engine.walk import Settled
from ortforge.matrix import load
from ortforge.plan.graph import Cell, Plan
from ortforge.plan.planner import make_plan
from ortforge.plugin_manager import Plugins
from ortforge.portable.comparison import parity
from ortforge.worker.data_summary import DataSummary

DEVICE = Device("here", "linux", "x86_64", "Some CPU", frozenset({"avx2"}), 2, 2.0, 8 << 30)
MATRIX = """
[limits]
timing_s = 0
[models.given]
path = "path:given.onnx"
validation = "random:"
calibration = "random:"
[models.bare]
path = "path:bare.onnx"
validation = "random:"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[recipes.chosen]
passes = [{ use = "quantize" }]
[recipes.dynamic]
passes = [{ use = "quantize", method = "dynamic" }]
[recipes.static]
passes = [{ use = "smooth-quant" }, { use = "quantize-static" }]
[[matrix]]
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("matrix")
    for name in ("given", "bare"):
        (folder / f"{name}.onnx").write_bytes(b"\x08\x08" + name.encode())
    (folder / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    plugins = Plugins(third_party=False)
    return make_plan(load(folder / "matrix.toml", known(plugins)), plugins, DEVICE, worker="w")


def cell_of(plan: Plan, model: str, recipe: str) -> Cell:
    (cell,) = [cell for cell in plan.cells if (cell.model, cell.recipe) == (model, recipe)]
    return cell


@pytest.mark.parametrize(
    ("model", "recipe", "expected"),
    [("given", "chosen", True), ("given", "dynamic", False), ("given", "static", True), ("bare", "chosen", False)],
)
def test_samples_go_to_passes_that_may_need_them(plan: Plan, model: str, recipe: str, expected: bool) -> None:
    cell = cell_of(plan, model, recipe)
    data = f"dataset:{model}/calibration"
    assert any(data in plan.steps[name].inputs for name in cell.transforms) is expected
    assert (cell.steps.get("calibration") == data) is expected
    assert bool(cell.facts["random_calibration"]) is expected


def test_static_recipes_without_calibration_data_are_unsupported_with_the_reason(plan: Plan) -> None:
    assert "give the model a calibration dataset" in cell_of(plan, "bare", "static").unsupported
    assert cell_of(plan, "bare", "chosen").unsupported == ""


# The report's notes


def pictures(swapped: bool) -> dict[str, Any]:
    draw = np.random.default_rng(3)
    summary = DataSummary()
    for _ in range(16):
        picture = draw.normal([[[0.8]], [[0.4]], [[0.1]]], 0.05, (3, 8, 8))
        summary.add({"x": picture[None, ::-1] if swapped else picture[None]})
    result = summary.result()
    json.dumps(result, allow_nan=False)
    return result


def judged(plan: Plan, recipe: str, **results: Mapping[str, Any]) -> dict[str, Any]:
    """Judge a cell whose steps all went well; ``results`` are those of the steps, by their role."""
    cell = cell_of(plan, "given", recipe)
    same = [{"y": np.linspace(0, 1, 8, dtype=np.float32)}]
    made: dict[str, dict[str, Any]] = {
        "compare": dict(parity.compare(same, same)),
        "artefact": {"bytes": 10, "changed": {}, "warnings": []},
        "fetch": {"bytes": 10},
    }
    for role, result in results.items():
        made[role] = {**made.get(role, {}), **result}
    settled = {name: Settled(plan.steps[name], "ok", identity=name, result={}) for name in plan.steps}
    for role, name in cell.steps.items():
        settled[name] = Settled(plan.steps[name], "ok", identity=name, result=made.get(role, {}))
    return judge_cell(cell, settled, ())


def test_swapped_channels_are_a_note_of_the_cell(plan: Plan) -> None:
    same, swapped = {"inputs": pictures(False)}, {"inputs": pictures(True)}
    notes = judged(plan, "static", dataset=same, calibration=swapped)["notes"]
    assert [note for note in notes if note.startswith("SWAPPED CHANNELS")]
    assert not [note for note in judged(plan, "static", dataset=same, calibration=same)["notes"] if "SWAPPED" in note]
    # A dataset that was made by an earlier version has no summary.
    assert not [note for note in judged(plan, "static", dataset=same)["notes"] if "SWAPPED" in note]


def test_random_calibration_data_count_only_where_the_chooser_used_them(plan: Plan) -> None:
    for method, said in (("dynamic", False), ("static", True), ("optimized", False), ("none", False)):
        cell = judged(plan, "chosen", artefact={"changed": {"quantize": {"method": method}}})
        found = [reason for reason in cell["reasons"] if "proves nothing of a statically" in reason]
        assert bool(found) is said, cell["reasons"]
    schemes = {name.partition("-")[0] for name in (*scheme_table.SCHEMES, scheme_table.OPTIMIZED)}
    assert schemes <= {"static", *WITHOUT_RANGES}, "a search answers with what its scheme does"
