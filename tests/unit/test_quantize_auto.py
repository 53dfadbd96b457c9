"""The search for a quantization: what it finds on a real model, what it says when there is nothing, what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from ortforge.plugins.passes import quantize_auto
from ortforge.plugins.passes._auto import auto_search, scheme_table, trial_bench
from ortforge.plugins.passes._measuring import closeness, pair_timing
from ortforge.plugins.passes._models import model_file
from test_auto_parts import answers, feeds, outlier_model

from ortforge.api import Device, PassUse
from ortforge.cli.shared import known
from ortforge.errors import ConfigurationError
from ortforge.matrix import Matrix, load
from ortforge.plan.planner import make_plan
from ortforge.plugin_manager import Plugins
from ortforge.worker.apply import PassJob
from ortforge.worker.samples import Samples, SampleWriter

LOOSE = {"cosine": 0.9, "max_rel_range": None, "agreement": None}
MakeJob = Callable[..., PassJob]


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    """Make a job as the worker does, on the model with outliers."""

    def make(count: int = 16, model: onnx.ModelProto | None = None, **parameters: Any) -> PassJob:
        for part in ("work", "out"):
            (tmp_path / part).mkdir()
        onnx.save(model or outlier_model(), tmp_path / "model.onnx")
        writer = SampleWriter(tmp_path / "samples")
        for sample in feeds(count, seed=40):
            writer.write(sample)
        writer.close(source="test")
        tolerance = parameters.pop("limits", LOOSE)
        return PassJob(
            model=tmp_path / "model.onnx",
            output=tmp_path / "out" / "model.onnx",
            parameters=parameters,
            samples=tuple(Samples(tmp_path / "samples").paths),
            folder=tmp_path / "samples",
            ep="cpu",
            ep_name="CPUExecutionProvider",
            ep_options={},
            ort_version=ort.__version__,
            cpu_flags=(),
            workdir=tmp_path / "work",
            tolerance=tolerance,
            session={"graph_optimization_level": "all", "intra_op_threads": 1},
        )

    return make


@pytest.fixture
def search(job: MakeJob) -> Iterator[Callable[..., auto_search.Search]]:
    """Begin a search, on the model with outliers or another, with every other sample held apart."""
    begun: list[auto_search.Search] = []

    def begin(limits: dict[str, Any], model: onnx.ModelProto | None = None) -> auto_search.Search:
        made = job(limits=limits, model=model)
        samples = list(made.feeds())
        bench = trial_bench.ready(made.model, samples[0::2], made.workdir)
        numbers = list(range(1, len(samples), 2))
        found = auto_search.Search(
            made, bench, samples[1::2], numbers, limits, margin=0.1, excluded=(), most_candidates=20
        )
        found.allow(60.0)
        begun.append(found)
        return found

    yield begin
    for one in begun:
        one.close()


# What it finds


def test_what_ships_holds_on_samples_that_it_never_saw(job: MakeJob) -> None:
    made = job(schemes=("dynamic-channel", "dynamic-smooth"), tolerance={"cosine": 0.998}, budget_s=25.0)
    told = quantize_auto.apply(made)
    json.dumps(told)
    unseen = feeds(24, seed=99)
    parity = closeness.compare(answers(made.model, unseen), answers(made.output, unseen))
    assert parity.cosine is not None and parity.cosine >= 0.998
    assert (told["calibrated_on"], told["judged_on"]) == (8, 8)
    assert told["tolerance"]["cosine"] == 0.998
    by_name = {row["name"]: row for row in told["candidates"]}
    assert not by_name["dynamic-channel"]["holds"] and "cosine" in by_name["dynamic-channel"]["fails"][0]
    assert by_name["dynamic-smooth"]["holds"] and by_name["dynamic-smooth"]["ratio"] > 0.0
    # Which of them is faster than float depends on the machine; that the file is what it says does not.
    assert (told["chosen"] in by_name) == (made.output.read_bytes() != made.model.read_bytes())


def test_whoever_watches_is_told_which_candidate_is_tried(job: MakeJob) -> None:
    said: list[str] = []
    made = job(schemes=("dynamic-channel", "dynamic-smooth"), limits={"cosine": 0.998}, budget_s=25.0)
    told = quantize_auto.apply(replace(made, say=said.append))
    tried = [line for line in said if line.startswith("candidate ")]
    assert tried[0].endswith("best so far: the float model")
    assert {line.partition(", ")[2].partition(";")[0] for line in tried} == {row["name"] for row in told["candidates"]}
    assert [int(line.split()[1].rstrip(",")) for line in tried] == [*range(1, len(told["candidates"]) + 1)]


def test_when_nothing_holds_the_float_model_ships_and_that_is_said(job: MakeJob) -> None:
    made = job(schemes=("dynamic",), tolerance={"sqnr_db": 150.0}, budget_s=20.0)
    told = quantize_auto.apply(made)
    assert told["chosen"] == "none: the float model"
    assert "NO-OP: " in told["warnings"][0] and "the float model ships" in told["warnings"][0]
    assert made.output.read_bytes() == made.model.read_bytes()
    assert all(not row["holds"] for row in told["candidates"])


def test_only_as_many_nodes_stay_float_as_are_needed(search: Callable[..., auto_search.Search]) -> None:
    scheme = scheme_table.SCHEMES["dynamic-channel"]
    found = search({"cosine": 0.5})
    found.screen(scheme)
    [whole] = found.candidates
    assert whole.holds
    allowed = (1.0 - whole.parity.expected["cosine"]) / 3.0
    found._tolerance = {"cosine": 1.0 - allowed}  # a third of the noise that the whole scheme makes
    found.candidates = [replace(whole, fails=("cosine",))]
    found.refine(found.candidates[0], scheme)
    refined = found.candidates[-1]
    assert refined.holds and refined.name == "dynamic-channel+1"
    assert refined.kept == ("second",)
    assert found.rankings["dynamic-channel"].groups[0] == ("second",)
    kept = {node.name for node in model_file.load(refined.path or Path()).graph.node if node.op_type == "MatMul"}
    assert kept == {"second"}
    blocks = found.in_blocks(refined)
    assert blocks is not None and blocks.name == "dynamic-channel+1 (weights-8)" and not blocks.problem


def cancelling_model() -> onnx.ModelProto:
    """The model with outliers, and after it the difference of two products whose weights differ by one in ten thousand.

    Half precision has a resolution of one in two thousand.
    """
    model = outlier_model()
    draw = np.random.default_rng(5)
    weight, change = draw.normal(size=(2, 64, 64)).astype(np.float32)
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["embedding", "left"], ["f"], "left"),
            helper.make_node("MatMul", ["embedding", "right"], ["g"], "right"),
            helper.make_node("Sub", ["f", "g"], ["answer"], "difference"),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "left"))
    model.graph.initializer.append(numpy_helper.from_array(weight + change * np.float32(1e-4), "right"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, None))
    return model


def test_the_stretch_that_half_precision_ruins_stays_float(search: Callable[..., auto_search.Search]) -> None:
    scheme = scheme_table.SCHEMES["float16"]
    found = search({"cosine": 0.999}, cancelling_model())
    found.screen(scheme)
    [whole] = found.candidates
    assert not whole.holds
    found.refine(replace(whole, ratio=pair_timing.Ratio(1.0, 0.98, 1.02, 9)), scheme)
    least = min((c for c in found.candidates if c.holds), key=lambda c: c.bytes)
    assert {"left", "right"} <= set(least.kept) and not {"first", "second"} & set(least.kept)
    model = model_file.load(least.path or Path())
    halves = {w.name for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16}
    assert len(halves) >= 3 and whole.bytes < least.bytes < found.float_bytes


def test_without_a_faster_one_the_optimized_model_is_left_with_its_stamp(job: MakeJob) -> None:
    made = job(schemes=("optimized",), budget_s=20.0)
    told = quantize_auto.apply(made)
    [tried] = told["candidates"]
    assert tried["name"] == "optimized" and tried["holds"]
    # Whether it loads faster, and so ships, is the machine's to say.
    assert (told["chosen"] == "optimized") == (told.get("stamp", {}).get("ort_version") == ort.__version__)
    assert (told["chosen"] == "optimized") == (made.output.read_bytes() != made.model.read_bytes())
    assert told["method"] == ("optimized" if told["chosen"] == "optimized" else "none")


# What goes wrong with a candidate is a finding


def raising(bench: trial_bench.Bench, kept: Any) -> Any:
    raise RuntimeError("the quantizer gave up\nwith a long story")


def nan(bench: trial_bench.Bench, kept: Any) -> Any:
    model = scheme_table.SCHEMES["dynamic"].make(bench, kept)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), np.nan), tensor.name))
    return model


def unloadable(bench: trial_bench.Bench, kept: Any) -> Any:
    model = scheme_table.SCHEMES["dynamic"].make(bench, kept)
    model.graph.node.append(helper.make_node("NoSuchOperator", ["x"], ["z"]))
    return model


def untouched(bench: trial_bench.Bench, kept: Any) -> Any:
    return bench.copy()


BAD = {
    "raising": (raising, "the quantizer gave up"),
    "unloadable": (unloadable, "NoSuchOperator"),
    "untouched": (untouched, "nothing was quantized"),
    "nan": (nan, "NaN or infinite values"),
}


def test_bad_candidates_are_findings_and_do_not_end_the_search(search: Callable[..., auto_search.Search]) -> None:
    found = search({"cosine": 0.5})
    for name, (make, _) in BAD.items():
        found.screen(scheme_table.Scheme(name, "", make))
    for bad in found.candidates:
        assert not bad.holds
        assert BAD[bad.name][1] in (bad.problem or bad.fails[0])
        assert "\n" not in bad.problem
    assert len(found.candidates) == len(BAD) and found.best is None
    found.screen(scheme_table.SCHEMES["dynamic"])
    assert found.best is not None and found.best.name == "dynamic"


def test_the_time_and_the_number_of_candidates_end_it(search: Callable[..., auto_search.Search]) -> None:
    found = search({"cosine": 0.5})
    found.allow(0.0)
    found.screen(scheme_table.SCHEMES["dynamic"])
    assert found.candidates == [] and found.skipped == {"dynamic": "the time was used up"}


def test_of_a_budget_the_time_of_the_final_is_kept(search: Callable[..., auto_search.Search]) -> None:
    found = search({"cosine": 0.5})
    found.allow(3.0)  # half of it is the final's, and the rest is gone by then
    time.sleep(1.6)
    assert found.over == "the time was used up"
    found.allow(600.0)
    assert not found.over


# What it refuses


def test_a_quantized_model_is_refused(job: MakeJob, tmp_path: Path) -> None:
    onnx.save(outlier_model(), tmp_path / "float.onnx")
    bench = trial_bench.ready(tmp_path / "float.onnx", feeds(2), tmp_path)
    with pytest.raises(ValueError, match=r"quantized already \(.*MatMulInteger.*Use a float model"):
        quantize_auto.apply(job(model=scheme_table.SCHEMES["dynamic"].make(bench, ())))


def test_a_node_that_is_not_there_is_named_with_the_nearest(job: MakeJob) -> None:
    with pytest.raises(ValueError, match=r"nodes_to_exclude names 'secnd'.*Did you mean 'second'"):
        quantize_auto.apply(job(nodes_to_exclude=("secnd",)))


def test_without_samples_it_says_what_is_missing(job: MakeJob) -> None:
    with pytest.raises(ValueError, match="no calibration samples"):
        quantize_auto.apply(PassJob(**{**vars(job()), "samples": (), "folder": None}))


def test_where_the_float_model_does_not_run_there_is_nothing_to_search(job: MakeJob) -> None:
    elsewhere = PassJob(**{**vars(job()), "providers": (("NoSuchExecutionProvider", {}),), "ep_name": "NoSuch"})
    with pytest.raises(NotImplementedError, match=r"does not run on NoSuch.*has no NoSuchExecutionProvider"):
        quantize_auto.apply(elsewhere)


def test_few_samples_are_used_twice_and_that_is_said(job: MakeJob) -> None:
    told = quantize_auto.apply(job(count=3, schemes=("dynamic",), tolerance={"sqnr_db": 150.0}, budget_s=10.0))
    assert any("nothing could be held apart" in text for text in told["warnings"])


def test_a_search_that_ran_out_of_time_says_what_it_did_not_try(job: MakeJob) -> None:
    told = quantize_auto.apply(job(budget_s=0.1))
    [late] = [text for text in told["warnings"] if text.startswith("For want of time ")]
    untried = [name for name, reason in told["skipped"].items() if reason in auto_search.FOR_WANT_OF_TIME]
    assert "static-16" in untried and f"{len(untried)} of {len(scheme_table.SCHEMES)} schemes" in late
    assert all(name in late for name in untried) and "give budget_s more" in late


def test_where_no_scheme_fits_the_reason_is_given(job: MakeJob) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"], name="exp"), helper.make_node("Neg", ["e"], ["y"], name="neg")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "n", 64])
    model = helper.make_model(
        helper.make_graph(nodes, "g", outlier_model().graph.input, [output]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    told = quantize_auto.apply(job(model=model, schemes=("weights-*", "dynamic"), budget_s=10.0))
    assert told["candidates"] == []
    assert told["warnings"] == [
        "NO-OP: no scheme could be tried: the model has no MatMul with a constant weight outside of branches "
        "(weights-8, weights-4; 1 for other reasons). The float model ships."
    ]


def test_a_limit_that_the_models_own_makes_idle_is_said(job: MakeJob) -> None:
    made = job(schemes=("dynamic",), limits={"cosine": 0.9}, tolerance={"cosine": 0.5, "sqnr_db": 150.0}, budget_s=10.0)
    told = quantize_auto.apply(made)
    assert not any("want of time" in text for text in told["warnings"])
    assert [text for text in told["warnings"] if text.startswith("tolerance: ")] == [
        "tolerance: cosine = 0.5 changes nothing here: the model's own limit, 0.9, is stricter."
    ]


@pytest.mark.parametrize(
    ("parameters", "fields", "said"),
    [
        ({}, {"has_calibration": False}, "give the model a calibration dataset"),
        ({"margin": 1.0}, {}, "margin 1 is no share"),
        ({"budget_s": -1.0}, {}, "needs time and candidates"),
        ({"tolerance": {"cosin": 0.9}}, {}, "tolerance has 'cosin'; a search can hold agreement, cosine"),
        (
            {"tolerance": {"cosine": 1.5}},
            {},
            "tolerance has cosine = 1.5, which nothing can hold or break: give at least -1",
        ),
        ({"tolerance": {"max_rel_range": -0.1}}, {}, "tolerance has max_rel_range = -0.1"),
        ({"schemes": ("staticc",)}, {}, "there is no scheme 'staticc'; there are static-channel, static"),
    ],
)
def test_what_can_be_known_is_said_before_anything_runs(
    parameters: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    [auto] = quantize_auto.ortforge_passes()
    use: dict[str, Any] = {"before": (), "ort_version": "1.32.0", "ep": "cpu", "has_calibration": True, **fields}
    assert said in auto.objection(PassUse(parameters=quantize_auto.Parameters(**parameters), **use))


# In a matrix


MATRIX = """
[models.m]
path = "path:m.onnx"
validation = "random:"
calibration = "random:"
tolerance = {{ cosine = {cosine} }}
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[recipes.auto]
{recipe}
"""
DEVICE = Device("here", "linux", "x86_64", "Some CPU", frozenset({"avx2"}), 2, 2.0, 8 << 30)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins(third_party=False)


def matrix(folder: Path, plugins: Plugins, recipe: str, cosine: float = 0.99) -> Matrix:
    (folder / "m.onnx").write_bytes(b"\x08\x08m")
    (folder / "matrix.toml").write_text(MATRIX.format(recipe=recipe, cosine=cosine), encoding="utf-8")
    return load(folder / "matrix.toml", known(plugins))


def test_the_short_form_is_the_pass(tmp_path: Path, plugins: Plugins) -> None:
    short = matrix(tmp_path, plugins, "quantize = { auto = true, budget_s = 20.0, schemes = ['dynamic*'] }")
    long = matrix(tmp_path, plugins, "passes = [{ use = 'quantize-auto', budget_s = 20.0, schemes = ['dynamic*'] }]")
    assert short.recipes["auto"].passes == long.recipes["auto"].passes
    assert short.digest == long.digest
    both = matrix(tmp_path, plugins, "passes = ['preprocess']\nquantize = { auto = true }")
    assert [use.use for use in both.recipes["auto"].passes] == ["preprocess", "quantize-auto"]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("quantize = { auto = false }", "recipes.auto.quantize: must have auto = true"),
        ("quantize = { per_channel = true }", "recipes.auto.quantize: must have auto = true"),
        ("quantize = { auto = true, budgets = 3 }", 'no such parameter. Perhaps you meant "budget_s"'),
        ("quantize = true", "must be a table"),
        ("summary = 'nothing'", "recipes.auto: passes is missing"),
    ],
)
def test_a_wrong_short_form_is_refused_where_it_stands(
    tmp_path: Path, plugins: Plugins, recipe: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        matrix(tmp_path, plugins, recipe)
    assert said in str(refused.value)
    assert "one problem" in str(refused.value)


def test_a_search_is_made_anew_for_another_tolerance_or_device_and_runs_alone(tmp_path: Path, plugins: Plugins) -> None:
    def transform(cosine: float, device: Device) -> Any:
        plan = make_plan(matrix(tmp_path, plugins, "quantize = { auto = true }", cosine), plugins, device, worker="w")
        [step] = [step for step in plan.steps.values() if step.kind == "transform"]
        return step

    one = transform(0.99, DEVICE)
    assert one.exclusive
    assert one.parameters["measures"]["tolerance"]["cosine"] == 0.99
    assert one.parameters["measures"]["tolerance"]["max_rel_range"] == 0.1
    assert transform(0.995, DEVICE).parameters != one.parameters
    other = Device("here", "linux", "x86_64", "Another CPU", frozenset({"avx2"}), 4, 4.0, 8 << 30)
    assert transform(0.99, other).parameters != one.parameters
    assert transform(0.99, DEVICE).parameters == one.parameters
