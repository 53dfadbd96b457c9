"""``optimize``: what is saved, the stamp that goes with it, and where a stamped model is refused."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from ortforge.plugins.reports import _cells
from report_sample import cell
from rich.console import Console
from transformer_sample import apply_pass, cosine, encoder_layer, feed

from ortforge.api import PassUse, Task, TaskOutcome
from ortforge.api.wording import TIMES
from ortforge.engine.artefacts import model_file, seal
from ortforge.engine.steps import check, transform
from ortforge.engine.work import Work
from ortforge.plan import stamp as stamps
from ortforge.plugin_manager import Plugins
from ortforge.report.cell import show_cell
from ortforge.runtime.environment import Environment
from ortforge.runtime.interpreter import Interpreter
from ortforge.store import Store
from ortforge.worker.module import load_module
from ortforge.worker.samples import SampleWriter

OPTIMIZE = Path(__file__).parents[2] / "plugins" / "passes" / "optimize.py"
FLAGS = ["avx2", "avx512f", "fpu"]
LIMITS = {"import_s": 60, "load_s": 60, "run_s": 60, "memory": 2 << 30}
Optimize = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture
def optimize(tmp_path: Path) -> Iterator[Optimize]:
    before = sys.path[:]
    module: ModuleType = load_module(OPTIMIZE, "apply")
    yield lambda model, **parameters: apply_pass(module, tmp_path, model, **parameters)
    sys.path[:] = before


def stamp_of(path: Path) -> dict[str, Any]:
    """The stamp inside a file, ONNX or ORT format, as a session tells it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return stamps.read(session.get_modelmeta().custom_metadata_map)


# What is saved


@pytest.mark.parametrize("level", ["basic", "extended", "layout", "all"])
@pytest.mark.parametrize("form", ["onnx", "ort"])
def test_every_level_in_both_formats_keeps_the_values_and_carries_its_stamp(
    optimize: Optimize, level: str, form: str
) -> None:
    if level == "layout" and not hasattr(ort.GraphOptimizationLevel, "ORT_ENABLE_LAYOUT"):
        pytest.skip("this ONNX Runtime has no level layout")
    model = encoder_layer()
    result, path = optimize(model, level=level, format=form)
    assert path.name == f"model.{form}"
    assert cosine(model, path, feed()) > 0.99999
    expected = {"ort_version": ort.__version__, "ep": "cpu", "level": level, "cpu_flags": ["avx2"]}
    assert result["stamp"] == stamp_of(path) == expected
    bound = form == "ort" and level in ("basic", "extended")
    assert ("without the CPU's memory layout" in "".join(result["warnings"])) == bound
    assert result["bytes_after"] == path.stat().st_size


@pytest.mark.parametrize("form", ["onnx", "ort"])
def test_external_data_comes_along(optimize: Optimize, tmp_path: Path, form: str) -> None:
    model = encoder_layer()
    wide = onnx.numpy_helper.from_array(feed()["x"].repeat(80, 0).reshape(8, -1), "wide")
    model.graph.initializer.append(wide)
    model.graph.node.append(helper.make_node("MatMul", ["y", "wide"], ["z"], name="head"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 5, wide.dims[1]]))
    source = tmp_path / "outside" / "in.onnx"
    source.parent.mkdir()
    onnx.save(model, source, save_as_external_data=True, location="in.data", size_threshold=128)
    result, path = optimize(source, level="extended", format=form)
    if form == "onnx":
        assert sorted(each.name for each in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert result["bytes_after"] == sum(each.stat().st_size for each in path.parent.iterdir())
    assert cosine(source, path, feed()) > 0.99999


def test_a_bound_model_stays_bound_when_it_is_optimized_again(optimize: Optimize) -> None:
    first, path = optimize(encoder_layer(), level="extended")
    again, path = optimize(path, level="basic")
    assert again["stamp"] == stamp_of(path) == first["stamp"]
    more, path = optimize(path, level="all")
    assert more["stamp"]["level"] == stamp_of(path)["level"] == "all"


def test_a_level_that_a_version_lacks_is_said_with_the_version_that_has_it() -> None:
    before = sys.path[:]
    (offered,) = load_module(OPTIMIZE, "apply").ortforge_passes()
    sys.path[:] = before
    said = offered.objection(PassUse(offered.parameters(level="layout"), (), "1.22.1", "cpu", False))
    assert (
        said
        == "ONNX Runtime 1.22.1 has no level 'layout' (it is there since 1.23); use 'all', which does the same there"
    )
    assert offered.objection(PassUse(offered.parameters(level="layout"), (), "1.23.0", "cpu", False)) == ""


def test_load_time_with_and_without_stand_side_by_side_in_the_report() -> None:
    entry = cell("m", "offline", "stock", "pass", error=0.0, speed=1.0)
    entry |= {"load_s": 0.0121, "first_run_s": 0.002}
    entry["timing"] = {**entry["timing"], "baseline_load_s": 0.0443, "baseline_first_run_s": 0.003}
    loading = {"ratio": 3.51, "low": 3.4, "high": 3.62, "outcome": "faster", "pairs": 21, "rounds": 3}
    loading |= {"p50_s": 0.0081, "baseline_p50_s": 0.0284}
    entry["timing"]["load"] = loading
    screen = io.StringIO()
    show_cell(entry, {"cells": [entry]}, Console(file=screen, width=300))
    assert "12.1 ms, 2 ms (its baseline: 44.3 ms, 3 ms)" in screen.getvalue()
    assert f"3.51{TIMES} [3.40, 3.62] against its baseline; 8.1 ms in turns" in screen.getvalue()
    html = dict(_cells._start_facts(entry))
    assert html["loading in turns"] == f"3.51{TIMES} [3.40, 3.62]; 8.1 ms (its baseline: 28.4 ms)"
    assert ("load", "12.1 ms (its baseline: 44.3 ms)") in list(_cells._start_facts(entry))


def test_the_same_artefact_has_the_same_index_whatever_order_its_facts_come_in(tmp_path: Path) -> None:
    indexes = []
    for name, order in (("one", ("level", "ep")), ("other", ("ep", "level"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"the same model")
        stamp = {key: {"level": "all", "ep": "cpu"}[key] for key in order}
        settings = {key: {"intra_op_threads": 2} for key in (("session", "ep_options")[:: 1 if name == "one" else -1])}
        assert seal(tmp_path / name, "model.onnx", stamp, settings) == 14
        indexes.append((tmp_path / name / "index.json").read_bytes())
    assert indexes[0] == indexes[1]
    assert model_file(tmp_path / "one") == tmp_path / "one" / "model.onnx"


# Stamps


def a_stamp(level: str, **other: Any) -> dict[str, Any]:
    return {"ort_version": "1.32.0", "ep": "cpu", "level": level, "cpu_flags": ["avx2", "avx512f"], **other}


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (None, None, None),
        (None, a_stamp("basic"), "basic"),
        (a_stamp("extended"), None, "extended"),
        (a_stamp("extended"), a_stamp("basic"), "extended"),
        (a_stamp("basic"), a_stamp("extended"), "extended"),
        (a_stamp("extended"), a_stamp("all"), "all"),
        (a_stamp("all"), a_stamp("layout"), "all"),
        (a_stamp("odd"), a_stamp("all"), "odd"),
    ],
)
def test_of_two_stamps_the_stricter_one_holds(before: Any, after: Any, kept: str | None) -> None:
    joined = stamps.joined(before, after)
    assert (joined or {}).get("level") == kept


def test_a_stamp_that_cannot_be_read_is_refused() -> None:
    for text in ("{", "17", '"all"', ""):
        stamp = stamps.read({stamps.KEY: text})
        why = stamps.broken(stamp, ort_version="1.32.0", ep="cpu", cpu_flags=FLAGS)
        assert "which is none of basic, extended, layout, all" in why
    assert stamps.read({"other": "x"}) == {}


@pytest.fixture
def work(tmp_path: Path, worker_folder: Path) -> Iterator[Work]:
    store = Store(tmp_path / "store")
    yield Work(store, Plugins(third_party=False), worker_folder)
    store.close()


def runtime() -> dict[str, Any]:
    """This Python as a provisioned environment."""
    facts = Interpreter("3", "cpython", "abi", "linux", "glibc", "0" * 64, (sys.executable,), ())
    environment = Environment(Path(sys.prefix), Path(sys.executable), "identity", (), facts, "request")
    return {"probe": {"ort_version": ort.__version__}, "environment": environment.to_json()}


def stored(work: Work, path: Path) -> str:
    with work.store.objects.scratch() as scratch:
        folder = scratch / "artefact"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(path.read_bytes())
        seal(folder, "model.onnx")
        return work.store.objects.put(folder)


def checked(
    work: Work,
    artefact: tuple[str, dict[str, Any]],
    metadata: dict[str, str],
    *,
    ep: str = "cpu",
    flags: list[str] = FLAGS,
) -> TaskOutcome:
    """Run the ``check`` step of a cell on the model, in a real worker when its stamp lets it."""
    with work.store.objects.scratch() as scratch:
        writer = SampleWriter(scratch / "samples")
        writer.write(feed())
        writer.close(random=False, source="test")
        data = work.store.objects.put(scratch / "samples")
    how = {"ep": ep, "ep_name": "CPUExecutionProvider", "session": {}, "providers": [["CPUExecutionProvider", {}]]}
    inputs = (
        ("model", *artefact),
        ("provision", "identity", runtime()),
        ("dataset", data, {}),
        ("inspect", "", {"metadata": metadata}),
    )
    context = {"limits": LIMITS, "cpu_flags": flags}
    return check.run(Task("check:a", "check", "key", how, inputs, str(work.store.root), context), work)


@pytest.mark.parametrize(
    ("stamp", "place", "says"),
    [
        (a_stamp("extended"), {"ep": "cuda"}, "for the EP cpu, and its fused operators may not exist on cuda"),
        (a_stamp("extended", ep="cuda"), {}, "for the EP cuda"),
        (a_stamp("extended", ort_version="99.0.0"), {}, "the older " + ort.__version__),
        (a_stamp("all", ort_version="1.0.0"), {}, f"this runtime is {ort.__version__}"),
        (a_stamp("all", ort_version=ort.__version__), {"flags": ["avx2"]}, "this CPU lacks avx512f"),
        (a_stamp("layout", ort_version=ort.__version__), {"flags": [*FLAGS, "amx_int8"]}, "it has amx_int8 besides"),
        (a_stamp("unheard-of"), {}, "the optimization level 'unheard-of'"),
    ],
    ids=["other EP", "foreign EP", "older version", "other version", "less ISA", "more ISA", "other level"],
)
@pytest.mark.parametrize("carrier", ["artefact", "model"])
def test_a_stamped_model_is_unsupported_where_its_conditions_do_not_hold(
    work: Work, tmp_path: Path, stamp: dict[str, Any], place: dict[str, Any], says: str, carrier: str
) -> None:
    onnx.save(encoder_layer(), tmp_path / "m.onnx")
    facts = {"stamp": stamp} if carrier == "artefact" else {}
    metadata = {stamps.KEY: json.dumps(stamp)} if carrier == "model" else {}
    outcome = checked(work, (stored(work, tmp_path / "m.onnx"), facts), metadata, **place)
    assert outcome.status == "unsupported"
    assert says in outcome.reason
    assert "Make it again there" in outcome.reason


def test_optimized_here_it_runs_here_and_its_load_time_is_measured(work: Work, tmp_path: Path) -> None:
    onnx.save(encoder_layer(), tmp_path / "m.onnx")
    source = stored(work, tmp_path / "m.onnx")
    parameters = {
        "pass": "optimize",
        "parameters": {"level": "all", "format": "onnx"},
        "suffix": ".onnx",
        "ep": "cpu",
        "providers": [["CPUExecutionProvider", {}]],
        "cpu_flags": FLAGS,
    }
    inputs = (("fetch:m", source, {"bytes": 4613}), ("tools", "identity", runtime()))
    context = {"limits": LIMITS, "module": str(OPTIMIZE)}
    made = transform.run(Task("t", "transform", "key", parameters, inputs, str(work.store.root), context), work)
    assert made.status == "ok", made.reason
    assert made.result["stamp"]["cpu_flags"] == ["avx2", "avx512f"]
    assert stamp_of(model_file(work.store.objects.get(made.identity))) == made.result["stamp"]
    artefact = (made.identity, dict(made.result))
    ran = checked(work, artefact, {})
    assert ran.status == "ok", ran.reason
    assert ran.result["load_s"] > 0
    elsewhere = checked(work, artefact, {}, flags=["avx2"])
    assert (elsewhere.status, "lacks avx512f" in elsewhere.reason) == ("unsupported", True)


def test_samples_are_cast_to_the_types_that_a_recipe_gave_the_inputs(work: Work, tmp_path: Path) -> None:
    model = encoder_layer()
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT32
    onnx.save(model, tmp_path / "m.onnx")
    identity = stored(work, tmp_path / "m.onnx")
    assert "int64" in checked(work, (identity, {}), {}).reason, "nothing is cast that no recipe changed"
    ran = checked(work, (identity, {"inputs": {"mask": "int32"}}), {})
    assert ran.status == "ok", ran.reason
    lost = checked(work, (identity, {"inputs": {"mask": "int32", "x": "int8"}}), {})
    assert "has values that int8 does not hold" in lost.reason
