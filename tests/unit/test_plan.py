"""The step graph: keys change with what can change a result, and with nothing else."""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.api import Device
from ortforge.cli.shared import known
from ortforge.engine.cells import judge_cell
from ortforge.matrix import load
from ortforge.plan.code import code_of, module_digest
from ortforge.plan.graph import Plan, Step, key_of, levels
from ortforge.plan.lookup import look_up, prospects, tally
from ortforge.plan.planner import make_plan
from ortforge.plan.refusals import stated_version
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
    assert {"check", "compare", "time", "reference", "dataset"} <= set(cell.steps)
    assert "noise" not in cell.steps  # a comparison measures its own noise
    timing = plan.steps[cell.steps["time"]]
    assert not any(plan.steps[name].kind == "noise" for name in timing.inputs)
    assert {plan.steps[name].kind for name in timing.after} == {"check", "compare"}
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


def test_what_follows_a_pass_that_is_made_for_an_ep_is_made_for_it_too(tmp_path: Path, plugins: Plugins) -> None:
    text = """
[models.m]
path = "path:small.onnx"
[targets.a]
from = "package"
requires = ["onnxruntime==1.32.0"]
eps = [{ name = "cpu", label = "one" }, { name = "cpu", label = "two", options = { x = "1" } }]
[recipes.chain]
passes = [{ use = "optimize", level = "basic" }, { use = "quantize-dynamic" }]
[recipes.fused]
passes = [{ use = "transformer-optimizer" }]
[recipes.bound]
passes = [{ use = "transformer-optimizer", opt_level = 2 }]
"""
    plan = planned(tmp_path, plugins, text)
    made = {cell.id: cell.transforms for cell in plan.cells}
    one, two = (made[f"m/chain@a:{label}/here"] for label in ("one", "two"))
    assert one[1] != two[1]
    assert [plan.steps[name].inputs[0] for name in (one[1], two[1])] == [one[0], two[0]]
    assert made["m/fused@a:one/here"] == made["m/fused@a:two/here"], "basic optimizations are nobody's in particular"
    assert made["m/bound@a:one/here"] != made["m/bound@a:two/here"]


def test_what_is_quantized_for_another_ep_than_the_cpus_is_that_eps_own(tmp_path: Path, plugins: Plugins) -> None:
    text = """
[models.m]
path = "path:small.onnx"
[targets.built]
from = "source"
source = "debian:trixie"
version = "1.21.0"
eps = ["cpu", "dnnl", { name = "cpu", label = "one", session = { intra_op_threads = 1 } }]
[recipes.int8]
passes = [{ use = "preprocess" }, { use = "quantize-dynamic" }]
"""
    plan = planned(tmp_path, plugins, text)
    made = {cell.ep: cell.transforms for cell in plan.cells if cell.recipe == "int8"}
    assert made["cpu"] == made["one"], "the CPU EP's is shared, whatever the session"
    assert made["cpu"][0] == made["dnnl"][0], "no kernel is asked for there"
    assert made["cpu"][1] != made["dnnl"][1]
    cpu, dnnl = (plan.steps[made[ep][1]].parameters for ep in ("cpu", "dnnl"))
    assert "providers" not in cpu
    assert (dnnl["ep"], dnnl["providers"][0][0]) == ("dnnl", "DnnlExecutionProvider")
    assert keys(plan)[made["cpu"][1]] != keys(plan)[made["dnnl"][1]]


def test_an_ep_with_threads_of_its_own_gets_the_sessions_number(tmp_path: Path, plugins: Plugins) -> None:
    target = """
[models.m]
path = "path:small.onnx"
validation = "random:"
[targets.built]
from = "source"
source = "debian:trixie"
version = "1.21.0"
eps = [
  "dnnl",
  { name = "dnnl", label = "one", session = { intra_op_threads = 1 } },
  { name = "dnnl", label = "own", options = { num_of_threads = "7" } },
  { name = "xnnpack", session = { intra_op_threads = 3 } },
]
[targets.openvino]
from = "package"
requires = ["onnxruntime-openvino==1.24.1"]
eps = ["openvino", { name = "openvino", label = "single", session = { intra_op_threads = 1 } }]
[[matrix]]
"""
    plan = planned(tmp_path, plugins, target)
    asked = {}
    for cell in plan.cells:
        (_, options), *_ = plan.steps[cell.steps["check"]].parameters["providers"]
        asked[cell.ep] = options.get("num_of_threads") or options["intra_op_num_threads"]
    cores = str(DEVICE.cores)
    assert asked == {"dnnl": cores, "one": "1", "own": "7", "xnnpack": "3", "openvino": cores, "single": "1"}


def test_an_emulator_is_checked_and_not_timed(tmp_path: Path, plugins: Plugins) -> None:
    target = """
[models.m]
path = "path:small.onnx"
validation = "random:"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.qnn]
from = "package"
requires = ["onnxruntime==1.32.0", "onnxruntime-qnn==2.7.0"]
eps = ["qnn"]
[[matrix]]
"""
    here = replace(DEVICE, system="linux", machine="x86_64")
    stock, emulated = planned(tmp_path, plugins, target, here).cells
    assert "noise" in stock.steps and stock.facts["untimed"] == ""
    assert "check" in emulated.steps and "time" not in emulated.steps
    assert "emulator" in emulated.facts["untimed"]


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


def changed(folder: Path, plugins: Plugins, text: str, old: str, new: str, device: Device = DEVICE) -> set[str]:
    """Return the steps whose keys a change of the file changes."""
    assert old in text
    before, after = keys(planned(folder, plugins, text)), keys(planned(folder, plugins, text.replace(old, new), device))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


OPTIONS = """
[models.m]
path = "path:small.onnx"
validation = { source = "python:data.py:samples", requires = ["pillow==11.0.0"], limit = 8 }
tasks = ["top1-accuracy"]
[targets.a]
from = "package"
requires = ["onnxruntime==1.32.0"]
eps = [{ name = "cpu", label = "one", options = { x = "1" }, session = { intra_op_threads = 1 } }]
environment = { SOME = "value" }
session = { config = { "session.a" = "1" } }
[recipes.optimized]
passes = [{ use = "optimize" }]
[tolerance]
cosine = 0.9
[limits]
timing_s = 4.0
rounds = 3
memory = "4GB"
run_s = 60.0
"""


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ('x = "1"', 'x = "2"', {"check", "noise", "time", "compare", "transform", "tiers"}),
        ("intra_op_threads = 1", "intra_op_threads = 2", {"check", "noise", "time", "compare", "tiers"}),
        ('"session.a" = "1"', '"session.a" = "2"', {"check", "noise", "time", "compare", "tiers"}),
        ('SOME = "value"', 'SOME = "other"', {"check", "noise", "time", "compare"}),
        (
            "pillow==11.0.0",
            "pillow==11.1.0",
            {"provision", "dataset", "reference", "check", "compare", "noise", "time", "tiers"},
        ),
        ("limit = 8", "limit = 9", {"dataset", "reference", "check", "compare", "noise", "time", "tiers"}),
        ("timing_s = 4.0", "timing_s = 5.0", {"noise", "time"}),
        ("rounds = 3", "rounds = 4", {"noise", "time"}),
        ('"top1-accuracy"', "", {"compare", "tiers"}),
        ("cosine = 0.9", "cosine = 0.8", set()),
        ('memory = "4GB"\nrun_s = 60.0', 'memory = "5GB"\nrun_s = 61.0', set()),
    ],
)
def test_what_can_change_a_result_is_in_its_key_and_nothing_else(
    tmp_path: Path, plugins: Plugins, old: str, new: str, kinds: set[str]
) -> None:
    (tmp_path / "data.py").write_text("def samples(): ...")
    names = changed(tmp_path, plugins, OPTIONS, old, new)
    assert {"provision" if name.startswith("tools:") else name.partition(":")[0] for name in names} == kinds


def test_names_and_places_are_in_no_key(tmp_path: Path, plugins: Plugins) -> None:
    renamed = OPTIONS.replace("[targets.a]", "[targets.b]").replace("models.m]", "models.n]").replace('"one"', '"two"')
    found = []
    for folder, text in ((tmp_path / "here", OPTIONS), (tmp_path / "there", renamed)):
        folder.mkdir()
        (folder / "data.py").write_text("def samples(): ...")
        found.append(keys(planned(folder, plugins, text)))
    assert sorted(found[0].values()) == sorted(found[1].values())


def test_two_targets_of_identical_content_share_every_result(tmp_path: Path, plugins: Plugins) -> None:
    twin = '[targets.twin]\nfrom = "package"\nrequires = ["onnxruntime==1.32.0"]\n[targets.older]'
    found = keys(planned(tmp_path, plugins, MATRIX.replace("[targets.older]", twin)))
    for name in ("check:small/{}@{}:cpu/here", "compare:small/{}@{}:cpu/here"):
        for recipe in ("none", "dynamic", "static"):
            assert found[name.format(recipe, "stock")] == found[name.format(recipe, "twin")]
    assert found["provision:stock"] == found["provision:twin"]


def test_the_python_that_is_taken_without_a_wish_is_in_the_key(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    wished = MATRIX.replace("[targets.older]\n", '[targets.older]\npython = "3.12"\n')
    before = keys(planned(tmp_path, plugins, wished))
    monkeypatch.setattr(sys, "version", "3.99.0 (another build)")
    after = keys(planned(tmp_path, plugins, wished))
    assert before["provision:stock"] != after["provision:stock"]
    assert before["provision:older"] == after["provision:older"]


def test_a_module_is_known_by_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from helper import (\n    work,\n)\n")
    (tmp_path / "helper.py").write_text("import deeper\ndef work(): ...\n")
    (tmp_path / "deeper.py").write_text("")
    (tmp_path / "unrelated.py").write_text("")
    first = module_digest(str(tmp_path / "mine.py"))
    (tmp_path / "unrelated.py").write_text("x = 1")
    assert module_digest(str(tmp_path / "mine.py")) == first
    (tmp_path / "deeper.py").write_text("x = 1")
    assert module_digest(str(tmp_path / "mine.py")) != first


def test_a_module_is_known_by_the_files_of_helper_packages_that_it_names(tmp_path: Path) -> None:
    mine, package = tmp_path / "mine.py", tmp_path / "_parts"
    mine.write_text("from ._parts import wheel\n")
    package.mkdir()
    for name in ("__init__", "wheel", "axle", "engine"):
        (package / f"{name}.py").write_text("from . import axle" if name == "wheel" else "")
    first = module_digest(str(mine))
    (package / "engine.py").write_text("x = 1")
    assert module_digest(str(mine)) == first
    for name in ("__init__", "wheel", "axle"):
        (package / f"{name}.py").write_text("x = 1")
        assert module_digest(str(mine)) != first
        (package / f"{name}.py").write_text("from . import axle" if name == "wheel" else "")
        assert module_digest(str(mine)) == first


def test_a_metric_is_known_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "some_metric_module.py").write_text("def compute(a, b, c):\n    return 1.0\n")
    compute = importlib.import_module("some_metric_module").compute
    first = code_of(compute)
    assert first
    assert code_of(functools.partial(compute, 1)) == first
    (tmp_path / "some_metric_module.py").write_text("def compute(a, b, c):\n    return 2.0\n")
    assert code_of(compute) != first


def test_another_target_stands_in_for_a_baseline_that_cannot_run_here(tmp_path: Path, plugins: Plugins) -> None:
    plan = planned(tmp_path, plugins, MATRIX + '[baseline]\ntarget = "older"\nep = "cuda"\n')
    cells = {cell.id: cell for cell in plan.cells}
    assert cells["small/none@older:cuda/here"].unsupported
    assert cells["small/none@stock:cpu/here"].baseline == ""
    assert cells["small/none@older:cpu/here"].baseline == "small/none@stock:cpu/here"
    assert not any("cuda" in name for name in plan.steps)
    assert any("stands in" in note and "older:cuda" in note for note in plan.notes)


def test_a_wheel_that_cannot_be_read_is_its_cells_failure(tmp_path: Path, plugins: Plugins) -> None:
    wheel = tmp_path / "onnxruntime-1.99.0-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    text = MATRIX.replace(
        "[recipes.dynamic]", f'[targets.built]\nfrom = "wheel"\nwheel = "{wheel.name}"\n[recipes.dynamic]'
    )
    (tmp_path / "matrix.toml").write_text(text, encoding="utf-8")
    for name in ("small", "other"):
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    matrix = load(tmp_path / "matrix.toml", known(plugins))
    wheel.unlink()
    plan = make_plan(matrix, plugins, DEVICE, worker="w")
    assert "cannot be read" in plan.steps["provision:built"].context["refused"]


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


def test_an_ep_that_needs_a_newer_runtime_is_incompatible_and_one_without_a_device_unsupported(
    tmp_path: Path, plugins: Plugins
) -> None:
    plan = planned(tmp_path, plugins, MATRIX.replace('eps = ["cpu", "cuda"]', 'eps = ["cpu", "cuda", "qnn"]'))
    fates = {cell.ep: judge_cell(cell, {}, ()) for cell in plan.cells if cell.target == "older" and cell.unsupported}
    assert fates["cuda"]["status"] == "unsupported"
    assert fates["qnn"]["status"] == "incompatible"
    assert "needs ONNX Runtime >=1.24.2; target older has 1.21.1" in fates["qnn"]["reasons"][0]
