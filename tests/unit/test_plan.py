"""The step graph: keys change with what can change a result, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.api import Device
from ortforge.cli.shared import known
from ortforge.matrix import load
from ortforge.plan.graph import Plan, Step, key_of, levels
from ortforge.plan.lookup import look_up, prospects, tally
from ortforge.plan.planner import make_plan, stated_version
from ortforge.plugin_manager import Plugins
from ortforge.store.ledger import StepRecord

DEVICE = Device("here", "linux", "x86_64", "Some CPU", frozenset({"avx2", "fma"}), 2, 2.0, 8 << 30)
MATRIX = """
[models.small]
path = "path:small.onnx"
validation = "random:"
calibration = "random:"
[models.other]
path = "path:other.onnx"
validation = "random:"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.older]
from = "package"
requires = ["onnxruntime==1.21.1"]
eps = ["cpu", "cuda"]
[recipes.dynamic]
passes = [{ use = "preprocess" }, { use = "quantize-dynamic" }]
[recipes.static]
passes = [{ use = "preprocess" }, { use = "quantize-static" }]
[recipes.twice]
passes = [{ use = "quantize-dynamic" }, { use = "quantize-dynamic", per_channel = true }]
[[matrix]]
"""


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins(third_party=False)


def planned(folder: Path, plugins: Plugins, text: str = MATRIX, device: Device = DEVICE) -> Plan:
    for name in ("small", "other"):
        (folder / f"{name}.onnx").write_bytes(b"\x08\x08" + name.encode())
    (folder / "matrix.toml").write_text(text, encoding="utf-8")
    return make_plan(load(folder / "matrix.toml", known(plugins)), plugins, device, worker="w")


def keys(plan: Plan) -> dict[str, str]:
    """Return the keys of a plan, every step having made something that depends on its key alone."""

    def done(wanted: object) -> dict[str, StepRecord]:
        return {
            key: StepRecord(
                key=key,
                step_id="",
                kind="",
                status="ok",
                identity=f"made-{key}",
                result={},
                reason="",
                log="",
                seconds=0.0,
                started="2026-01-01T00:00:00",
            )
            for key in wanted  # type: ignore[attr-defined]
        }

    return look_up(plan, done)[0]


def test_every_combination_is_a_cell_with_its_steps(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins)
    assert len(plan.cells) == 2 * 3 * 4
    cell = next(cell for cell in plan.cells if cell.id == "small/static@older:cpu/here")
    assert {"check", "compare", "time", "noise", "reference", "dataset"} <= set(cell.steps)
    assert cell.baseline == "small/none@older:cpu/here"
    by_id = {cell.id: cell for cell in plan.cells}
    plain = by_id[cell.baseline]
    assert plain.baseline == "small/none@stock:cpu/here"
    base = by_id[plain.baseline]
    assert base.baseline == ""
    assert "time" not in base.steps


def test_recipes_that_begin_alike_share_steps(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins)
    first = {cell.recipe: cell.transforms for cell in plan.cells if cell.model == "small" and cell.target == "stock"}
    assert first["dynamic"][0] == first["static"][0]
    assert first["dynamic"][1] != first["static"][1]


def test_what_cannot_run_here_is_said_before_anything_is_installed(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins)
    cuda = [cell for cell in plan.cells if cell.ep == "cuda"]
    assert cuda
    assert all(cell.unsupported and not cell.steps for cell in cuda)
    assert all("GPU" in cell.unsupported for cell in cuda)
    twice = [cell for cell in plan.cells if cell.recipe == "twice" and cell.ep == "cpu"]
    assert all("quantize" in cell.unsupported for cell in twice)
    missing = [cell for cell in plan.cells if cell.model == "other" and cell.recipe == "static" and cell.ep == "cpu"]
    assert all("calibration" in cell.unsupported for cell in missing)


def test_two_runtimes_never_share_a_measurement(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins)
    found = keys(plan)
    measured = {name: key for name, key in found.items() if name.split(":")[0] in {"check", "time", "transform"}}
    assert len(set(measured.values())) == len(measured)


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("onnxruntime==1.21.1", "onnxruntime==1.23.2", {"provision:older", "check:small/none@older:cpu/here"}),
        (
            '"random:"\ncalibration',
            '{ source = "random:", seed = 7 }\ncalibration',
            {"dataset:small/validation", "reference:small"},
        ),
        ('use = "quantize-dynamic", per', 'use = "quantize-dynamic", reduce_range = true, per', set()),
        ("[[matrix]]", "# a comment\n[[matrix]]", set()),
    ],
)
def test_a_change_reaches_what_depends_on_it(
    tmp_path: Path, plugins: Plugins, old: str, new: str, changes: set[str]
) -> None:
    before = keys(planned(tmp_path, plugins))
    after = keys(planned(tmp_path, plugins, MATRIX.replace(old, new, 1)))
    changed = {name for name in before if before[name] != after.get(name)}
    assert changes <= changed
    if not changes:
        assert not changed
    untouched = {"fetch:small", "fetch:other", "reference:other", "check:other/none@stock:cpu/here"}
    assert untouched.isdisjoint(changed)


def test_another_device_has_other_timings(tmp_path: Path, plugins: Plugins) -> None:
    other = Device("here", "linux", "x86_64", "Another CPU", DEVICE.cpu_flags, 2, 2.0, 8 << 30)
    before, after = keys(planned(tmp_path, plugins)), keys(planned(tmp_path, plugins, device=other))
    assert before["time:small/none@older:cpu/here"] != after["time:small/none@older:cpu/here"]
    assert before["fetch:small"] == after["fetch:small"]


def test_prospects_say_why(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins)
    found = {item.step.id: item for item in prospects(plan, lambda keys: {}, lambda keys: {})}
    assert found["fetch:small"].state == "run"
    assert found["reference:small"].state == "unknown"
    assert "fetch:small" in found["reference:small"].why
    assert tally(found.values())["fetch", "run"] == 2


def test_a_part_of_a_plan_brings_what_it_needs(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins)
    cell = next(cell for cell in plan.cells if cell.id == "small/dynamic@stock:cpu/here")
    part = plan.needed_by([cell])
    assert part.cells == (cell,)
    assert "fetch:other" not in part.steps
    assert [step.id for group in levels(part.steps) for step in group]


@pytest.mark.parametrize(
    ("requires", "version"),
    [
        (["onnxruntime==1.32.0"], "1.32.0"),
        (["numpy<3", "onnxruntime_openvino == 1.24.1"], "1.24.1"),
        (["onnxruntime>=1.30"], ""),
        (["onnxruntime==1.32.*"], ""),
        (["not a requirement !"], ""),
    ],
)
def test_stated_version(requires: list[str], version: str) -> None:
    assert stated_version(requires) == version


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.lists(st.text(max_size=6), max_size=3))
def test_a_key_is_made_from_content_alone(parameters: dict[str, object], identities: list[str]) -> None:
    step = Step("a", "check", parameters, context={"limits": 1})
    same = Step("b", "check", dict(reversed(parameters.items())), context={"limits": 2})
    assert key_of(step, identities) == key_of(same, identities)
    assert key_of(step, identities) != key_of(step, [*identities, "more"])
    assert key_of(step, identities) != key_of(Step("a", "time", parameters), identities)


def test_a_graph_out_of_order_is_refused() -> None:
    steps = {"b": Step("b", "check", {}, ("a",)), "a": Step("a", "fetch", {})}
    with pytest.raises(ValueError, match="comes before a"):
        levels(steps)
