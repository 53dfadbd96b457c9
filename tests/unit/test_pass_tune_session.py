"""Session tuning: what is tried where, when a difference counts, and that what won is what the cell is loaded with."""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from ortforge.plugins.passes import tune_session
from ortforge.plugins.passes._session import session_search
from ortforge.plugins.passes._session.session_timing import noise_floor, outcome, ratio_of
from ortforge.plugins.passes._session.space import (
    KNOBS,
    Branches,
    Hardware,
    Settings,
    Situation,
    branching,
    hardware,
)
from ortforge.plugins.reports._cells import _detail
from pass_jobs import FOLDER, job_for, picture_model, pictures, samples_folder
from rich.console import Console

from ortforge.api import Device, Gpu, PassUse, Task, TaskOutcome
from ortforge.cli.shared import known
from ortforge.engine.artefacts import providers_for, session_for, settings_of
from ortforge.engine.pairs import Side
from ortforge.engine.steps import check, transform
from ortforge.engine.work import Work
from ortforge.errors import ConfigurationError
from ortforge.matrix import Matrix, load
from ortforge.plan.graph import Plan, Step, key_of
from ortforge.plan.planner import make_plan
from ortforge.plugin_manager import Plugins
from ortforge.report.cell import show_cell
from ortforge.runtime.environment import Environment
from ortforge.runtime.interpreter import Interpreter
from ortforge.store import Store
from ortforge.worker.apply import PassJob
from ortforge.worker.session import open_session

from .report_sample import cell

TOO_MANY = 2**31 - 1
"""A number of threads for which no machine has the memory: ONNX Runtime gives up at once."""

SESSION = {"graph_optimization_level": "all", "intra_op_threads": 2}
CPU = (("CPUExecutionProvider", {}),)
EIGHT = Hardware((0, 1, 2, 3), (4, 5, 6, 7))

# Recorded on two shared processors with a compiler running: nanoseconds of the default's turn and of the other's, in
# four rounds of fresh processes. The model has 20,000 multiplications.
ITSELF = [
    [(19238, 19419), (17078, 19314), (16785, 16731), (16793, 17021), (16817, 16704)],
    [(16823, 16469), (16736, 16311), (16801, 16558), (16950, 17246), (16737, 16445)],
    [(16797, 16716), (17859, 16752), (16871, 16650), (16687, 16780), (16546, 16657)],
    [(16706, 16527), (16832, 16508), (16858, 16456), (16689, 16341), (16657, 17293)],
]
ONE_THREAD = [
    [(17622, 16078), (16634, 16229), (16610, 15915), (16605, 16217), (16572, 15932)],
    [(16381, 16081), (17587, 16041), (16508, 16071), (16483, 16132), (16564, 16132)],
    [(18085, 16246), (19267, 16305), (19333, 16327), (16842, 16301), (16773, 16231)],
    [(17679, 16284), (16611, 16286), (16622, 16297), (16681, 16264), (16611, 16258)],
]
UNOPTIMIZED = [
    [(17306, 27381), (17223, 30341), (18055, 31473), (18835, 40838), (16499, 31320)],
    [(16243, 24844), (16441, 30451), (16200, 25108), (16176, 24967), (17219, 25057)],
    [(16135, 25678), (16474, 25774), (16552, 25644), (16527, 25620), (16633, 25779)],
    [(16548, 27526), (16557, 27600), (16635, 25930), (16840, 27504), (17593, 27769)],
]


# When a difference counts


def test_a_few_percent_on_a_busy_machine_cannot_be_told() -> None:
    floor = noise_floor(ITSELF)
    assert floor == 0.03
    told = ratio_of(ONE_THREAD)
    assert told.ratio == pytest.approx(1.03, abs=0.005)
    assert outcome(told, floor) == "undecided"
    assert outcome(ratio_of(ITSELF), floor) == "undecided"


def test_a_third_is_told_in_both_directions() -> None:
    assert outcome(ratio_of(UNOPTIMIZED), 0.03) == "slower"
    assert outcome(ratio_of([[(b, a) for a, b in pairs] for pairs in UNOPTIMIZED]), 0.03) == "faster"
    # On a machine whose default differs from itself by half, the same times tell nothing.
    assert outcome(ratio_of([[(b, a) for a, b in pairs] for pairs in UNOPTIMIZED]), 0.5) == "undecided"


def test_one_round_knows_nothing_of_its_processes_luck() -> None:
    exact = [[(200.0, 100.0)] * 9]
    assert ratio_of(exact).low == pytest.approx(2.0 / 1.03)
    assert ratio_of(exact * 2).low == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no pairs"):
        ratio_of([[]])


def test_equal_sessions_in_processes_of_different_luck_are_never_called_different() -> None:
    draw = random.Random(1)

    def measured() -> list[list[tuple[float, float]]]:
        rounds = []
        for _ in range(4):
            luck = draw.gauss(0.0, 0.04)
            rounds.append([(100.0, 100.0 * (1 + luck + draw.gauss(0.0, 0.02))) for _ in range(8)])
        return rounds

    said = [outcome(ratio_of(measured()), noise_floor(measured())) for _ in range(100)]
    assert said.count("undecided") >= 99


# What is tried


def situation(**changes: Any) -> Situation:
    given: dict[str, Any] = {"session": {"intra_op_threads": 8}, "ep_name": "CPUExecutionProvider", "ep_options": {}}
    return Situation(**{**given, "hardware": EIGHT, "branches": Branches(), **changes})


def values(knob: str, **changes: Any) -> list[str]:
    tried = KNOBS[knob](situation(**changes))
    assert not isinstance(tried, str), tried
    return [each.text for each in tried]


def reason(knob: str, **changes: Any) -> str:
    told = KNOBS[knob](situation(**changes))
    assert isinstance(told, str)
    return told


def test_threads_go_up_to_what_the_device_gives() -> None:
    assert values("intra_op_threads") == [f"intra_op_threads = {count}" for count in (1, 2, 4)]
    assert values("intra_op_threads", session={"intra_op_threads": 6})[-1] == "intra_op_threads = 4"
    assert len(values("intra_op_threads", session={"intra_op_threads": 1})) == 3  # the user's 1: what else there is
    assert values("intra_op_threads", threads=(3, 8, 5)) == ["intra_op_threads = 3", "intra_op_threads = 5"]
    one = {"hardware": Hardware((0,)), "session": {"intra_op_threads": 1}}
    assert "only count" in reason("intra_op_threads", **one)


def test_an_ep_with_threads_of_its_own_follows_unless_it_was_told_otherwise() -> None:
    onednn = {"ep_name": "DnnlExecutionProvider"}
    tied = KNOBS["intra_op_threads"](situation(**onednn, ep_options={"num_of_threads": "8"}))
    assert tied[0] == Settings({"intra_op_threads": 1}, {"num_of_threads": "1"})
    own = KNOBS["intra_op_threads"](situation(**onednn, ep_options={"num_of_threads": "3"}))
    assert own[0] == Settings({"intra_op_threads": 1})
    assert values("ep_threads", **onednn, ep_options={"num_of_threads": "8"}) == [
        'num_of_threads = "1"',
        'num_of_threads = "4"',
    ]
    assert "no threads of its own" in reason("ep_threads")


def test_threads_are_bound_to_cores_before_their_siblings() -> None:
    name = "session.intra_op_thread_affinities"
    [bound] = KNOBS["affinity"](situation(session={"intra_op_threads": 4}))
    assert bound == Settings({"intra_op_threads": 4, "config": {name: "2;3;4"}})
    [bound] = KNOBS["affinity"](situation(session={"intra_op_threads": 6}))
    assert isinstance(bound, Settings)
    assert bound.session["config"][name] == "2;3;4;5;6"
    assert reason("affinity", chosen=Settings({"intra_op_threads": 1})) == "there is one thread only"
    assert "more threads than processors" in reason("affinity", session={"intra_op_threads": 9})


def test_one_thread_has_nothing_to_spin_for() -> None:
    assert values("spinning") == ['session.intra_op.allow_spinning = "0"']
    assert reason("spinning", chosen=Settings({"intra_op_threads": 1})) == "there is one thread only"
    off = {"intra_op_threads": 8, "config": {"session.intra_op.allow_spinning": "0"}}
    assert values("spinning", session=off) == ['session.intra_op.allow_spinning = "1"']


def test_what_changes_results_is_tried_only_when_asked_for() -> None:
    assert "changes results" in reason("denormals")
    assert values("denormals", denormals=True) == ['session.set_denormal_as_zero = "1"']


def graph(*nodes: tuple[str, str, str]) -> onnx.GraphProto:
    made = [helper.make_node(op, inputs.split(), [output]) for op, inputs, output in nodes]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    return helper.make_graph(made, "g", [value], [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)])


def test_the_parallel_executor_is_tried_where_heavy_operators_lie_side_by_side() -> None:
    chain = branching(graph(("MatMul", "x w", "a"), ("Relu", "a", "b"), ("MatMul", "b w", "c")))
    assert chain == Branches(1, 0.0)
    assert "wait for each other" in reason("execution_mode", branches=chain)
    attention = branching(
        graph(
            ("MatMul", "x q", "a"),
            ("MatMul", "x k", "b"),
            ("MatMul", "x v", "c"),
            ("MatMul", "a b", "d"),
            ("MatMul", "d c", "e"),
        )
    )
    assert attention == Branches(3, 0.6)
    modes = values("execution_mode", branches=attention)
    assert modes == [f'execution_mode = "parallel", inter_op_threads = {count}' for count in (2, 3)]
    assert "own format" in reason("execution_mode", branches=None)
    assert branching(graph(("Relu", "x", "y"))) == Branches(1, 0.0)


def test_the_processors_of_this_process_are_known_by_their_cores(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for number in allowed:  # a machine on which all of them belong to one core
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text("0-127\n")
    assert hardware(tmp_path) == Hardware((allowed[0],), tuple(allowed[1:]))
    assert hardware(tmp_path / "nowhere") == Hardware(tuple(allowed))
    assert hardware().logical == len(allowed)


def test_settings_are_laid_over_each_other_and_read_back_as_toml() -> None:
    first = Settings({"intra_op_threads": 2, "config": {"session.a": "1"}})
    both = Settings({"enable_mem_pattern": False, "config": {"session.b": "2;3"}}, {"threads": "1"}).over(first)
    assert both.session == {
        "intra_op_threads": 2,
        "enable_mem_pattern": False,
        "config": {"session.a": "1", "session.b": "2;3"},
    }
    assert tomllib.loads(both.lines["recipe"]) == {"session": both.session}
    assert tomllib.loads(both.lines["ep"]) == {"options": {"threads": "1"}}
    assert Settings().lines == {} and Settings().text == "the default session"


# Settings are in force


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., PassJob]:
    """A job on a small CNN, as the worker makes it."""

    def make(**parameters: Any) -> PassJob:
        samples = samples_folder(tmp_path / "samples", pictures(3)[0])
        made = job_for(tmp_path / "job", picture_model(), samples, parameters)
        return replace(made, session=SESSION, tolerance={})

    return make


def threads_of(job: PassJob, **session: Any) -> int:
    with job.trial(job.model, [0], session=session) as trial:
        trial.turn(1)
        return len(list(Path(f"/proc/{trial._process.pid}/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_a_trial_has_the_threads_that_its_settings_say(job: Callable[..., PassJob]) -> None:
    made = job()
    one = threads_of(made, intra_op_threads=1)
    assert threads_of(made, intra_op_threads=4) == one + 3
    assert threads_of(made) == one + 1  # the cell's own 2


def test_samples_are_cast_to_inputs_that_an_earlier_pass_changed(job: Callable[..., PassJob]) -> None:
    made = job()
    changed = onnx.load(made.model)
    changed.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    changed.graph.node.insert(0, helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT))
    changed.graph.node[1].input[0] = "wide"
    onnx.save(changed, made.model)
    with replace(made, session={**SESSION, "inputs": {"x": "float16"}}).trial(made.model, [0]) as trial:
        assert trial.turn(1)


def test_a_session_has_the_options_of_its_job(tmp_path: Path) -> None:
    onnx.save(picture_model(), tmp_path / "m.onnx")
    config = {"session.dynamic_block_base": "4"}
    wanted = {"intra_op_threads": 3, "enable_cpu_mem_arena": False, "enable_mem_pattern": False, "config": config}
    options = open_session(ort, str(tmp_path / "m.onnx"), CPU, wanted).session.get_session_options()
    assert (options.intra_op_num_threads, options.enable_cpu_mem_arena, options.enable_mem_pattern) == (3, False, False)
    assert options.get_session_config_entry("session.dynamic_block_base") == "4"
    plain = open_session(ort, str(tmp_path / "m.onnx"), CPU, {}).session.get_session_options()
    assert plain.enable_cpu_mem_arena and plain.enable_mem_pattern


# The whole pass


def test_a_search_leaves_the_model_alone_and_says_what_it_tried(job: Callable[..., PassJob]) -> None:
    made = job(settings=["intra_op_threads", "mem_*", "spinning"], budget_s=6.0, rounds=2)
    told = tune_session.apply(made)
    json.dumps(told)
    assert made.output.read_bytes() == made.model.read_bytes()
    # On a machine that is busy enough the time is used up before the last of them.
    accounted = {row["knob"] for row in told["tried"]} | {name.partition(":")[0] for name in told["skipped"]}
    assert accounted == {"intra_op_threads", "mem_arena", "mem_pattern", "spinning"}
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in told["tried"])
    assert told["noise"] >= 0.03 and told["default"] == SESSION
    # What wins depends on the machine; that nothing is kept without having won does not.
    assert ("session" in told) == (told["outcome"] == "faster") == ("paste" in told)
    assert any(text.startswith("NO-OP: ") for text in told["warnings"]) == (told["outcome"] != "faster")


@pytest.fixture
def crashing(job: Callable[..., PassJob], supervise: Callable[..., Any], tmp_path: Path) -> dict[str, Any]:
    """The result of a search, in a supervised worker, in which every count of threads is absurd."""
    made = job(settings=["intra_op_threads"], threads=[TOO_MANY], budget_s=30.0, rounds=2)
    outcome = supervise(
        {
            "op": "apply",
            "module": str(FOLDER / "tune_session.py"),
            "model": str(made.model),
            "output": str(tmp_path / "made" / "model.onnx"),
            "parameters": dict(made.parameters),
            "samples": str(made.folder),
            "ep": "cpu",
            "ep_name": "CPUExecutionProvider",
            "providers": [["CPUExecutionProvider", {}]],
            "session": SESSION,
            "tolerance": {},
        }
    )
    assert outcome.status == "ok", outcome
    details: dict[str, Any] = outcome.result["details"]
    return details


def test_a_setting_that_the_process_dies_of_is_a_finding(crashing: dict[str, Any]) -> None:
    [row] = crashing["tried"]
    assert (row["outcome"], row["setting"]) == ("failed", f"intra_op_threads = {TOO_MANY}")
    assert row["problem"] and "ratio" not in row
    assert crashing["chosen"] == "none: the default session"
    assert crashing["warnings"][0].startswith("NO-OP: 1 setting was tried, and it was not faster than the default")
    assert any(f"With intra_op_threads = {TOO_MANY} the session fails" in text for text in crashing["warnings"])


def test_where_the_default_does_not_run_there_is_nothing_to_tune(job: Callable[..., PassJob]) -> None:
    elsewhere = replace(job(), providers=(("NoSuchExecutionProvider", {}),), ep_name="NoSuch")
    with pytest.raises(NotImplementedError, match=r"does not run on NoSuch with the default session.*has no NoSuch"):
        tune_session.apply(elsewhere)


def test_without_samples_it_says_what_is_missing(job: Callable[..., PassJob]) -> None:
    with pytest.raises(ValueError, match="Give the model a calibration dataset"):
        tune_session.apply(replace(job(), samples=(), folder=None))


def test_a_file_that_is_no_model_is_said(job: Callable[..., PassJob]) -> None:
    made = job()
    made.model.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"cannot be read.*Is it an ONNX file"):
        tune_session.apply(made)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"budget_s": 0.0}, "a search needs time: 30 to 120 seconds are usual"),
        ({"rounds": 1}, "shows in 2 or more"),
        ({"threads": (2, 0)}, "threads has 0; a number of threads is 1 or more"),
        ({"settings": ("spining",)}, "settings has 'spining', which matches nothing; there are intra_op_threads, "),
        ({"settings": ("mem_*",), "threads": (3,)}, "threads is for the settings intra_op_threads and ep_threads, and"),
        ({"settings": ("mem_*", "*_threads"), "threads": (3,)}, ""),
        ({"settings": ("spinning",), "denormals": True}, "denormals = true is for the setting denormals, and"),
        ({"settings": ("denormals",)}, "settings names denormals, which changes results: say denormals = true"),
        ({"settings": ("d*",)}, ""),
        ({"denormals": True}, ""),
    ],
)
def test_what_can_be_known_is_said_before_anything_runs(parameters: dict[str, Any], said: str) -> None:
    [offered] = tune_session.ortforge_passes()
    told = offered.objection(PassUse(tune_session.Parameters(**parameters), (), "1.32.0", "cpu", False))
    assert said in told if said else told == ""


def found(**changes: Any) -> session_search.Found:
    made = {"floor": 0.05, "itself": ratio_of(ITSELF), "best": Settings({"intra_op_threads": 1})}
    return session_search.Found(**{**made, **changes})


def test_the_best_is_kept_only_when_it_beats_the_default_beyond_the_noise() -> None:
    tried = [session_search.Tried("spinning", "x", "y", "no gain")] * 2
    told = found(final=ratio_of(ONE_THREAD), outcome="undecided", tried=tried)
    assert told.kept == Settings()
    [warning] = tune_session._warnings(told, 0.0, ())
    assert "NO-OP: the best of 2 settings (intra_op_threads = 1) runs at 1.03 times the default's speed" in warning
    assert "not beyond the noise floor of 5.0%: it cannot be told apart" in warning
    assert found(final=ratio_of(ONE_THREAD), outcome="faster").kept == Settings({"intra_op_threads": 1})
    died = found(outcome="failed", problem="it crashed (SIGSEGV)")
    assert died.kept == Settings()
    assert "failed when it was timed again: it crashed (SIGSEGV)" in tune_session._warnings(died, None, ())[0]


def test_a_search_without_time_or_without_anything_to_try_says_so() -> None:
    none = {"best": Settings(), "skipped": {"spinning": "there is one thread only"}}
    assert "NO-OP: there was nothing to try here" in tune_session._warnings(found(**none), None, ())[0]
    none["skipped"] = {"spinning: x": session_search.TIME_USED_UP}
    assert "give budget_s more" in tune_session._warnings(found(**none), None, ())[0]
    tried = [session_search.Tried("spinning", "x", "y", "no gain")]
    assert (
        "1 setting was tried, and it was not faster"
        in tune_session._warnings(found(best=Settings(), tried=tried), None, ())[0]
    )


def test_a_busy_machine_is_said() -> None:
    [_, busy] = tune_session._warnings(found(best=Settings()), 0.59, ())
    assert busy.startswith("Tasks waited for a processor during 59% of the search: something else was running.")


# In the engine: part of what the artefact is, and what its cell is loaded with

PINNED = """
import shutil

def apply(job):
    shutil.copyfile(job.model, job.output)
    return job.parameters["returns"]
"""


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


LIMITS = {"limits": {"import_s": 60.0, "load_s": 60.0, "run_s": 60.0, "memory": 2 << 30}}
HOW: dict[str, Any] = {
    "ep": "cpu",
    "ep_name": "CPUExecutionProvider",
    "providers": [["CPUExecutionProvider", {}]],
    "session": SESSION,
    "environment": {},
}


def fetched(work: Work) -> tuple[str, dict[str, Any]]:
    with work.store.objects.scratch() as scratch:
        folder = scratch / "artefact"
        folder.mkdir()
        onnx.save(picture_model(), folder / "model.onnx")
        (folder / "index.json").write_text('{"schema": 1, "file": "model.onnx", "bytes": 1}')
        return work.store.objects.put(folder), {"bytes": 1}


def transformed(work: Work, before: tuple[str, dict[str, Any]], **returns: Any) -> TaskOutcome:
    """Run the ``transform`` step with a pass that leaves the model alone and returns what it is told to."""
    module = work.store.root / "pinned.py"
    module.write_text(PINNED, encoding="utf-8")
    parameters = {"pass": "pinned", "parameters": {"returns": returns}, "suffix": ".onnx"}
    inputs = (("model", *before), ("tools", "", runtime()))
    task = Task("transform:m", "transform", "k", parameters, inputs, "", {**LIMITS, "module": str(module)})
    outcome = transform.run(task, work)
    assert outcome.status == "ok", outcome
    return outcome


def checked(work: Work, artefact: tuple[str, dict[str, Any]]) -> TaskOutcome:
    with work.store.objects.scratch() as scratch:
        samples_folder(scratch / "samples", pictures(1)[0])
        data = work.store.objects.put(scratch / "samples")
    inputs = (("model", *artefact), ("provision", "", runtime()), ("dataset", data, {}), ("inspect", "", {}))
    return check.run(Task("check:m", "check", "k", HOW, inputs, "", {**LIMITS, "cpu_flags": []}), work)


def test_the_same_model_with_other_settings_is_another_artefact(work: Work) -> None:
    before = fetched(work)
    nothing = transformed(work, before, warnings=["NO-OP: nothing won"])
    assert nothing.identity == before[0]
    one = transformed(work, before, session={"intra_op_threads": 1})
    three = transformed(work, before, session={"intra_op_threads": 3})
    assert len({before[0], one.identity, three.identity}) == 3
    step = Step("check:m", "check", HOW, ("artefact",))
    assert key_of(step, [one.identity]) != key_of(step, [three.identity])
    # A later pass that changes nothing keeps them; one that tunes again adds its own.
    again = transformed(work, (one.identity, dict(one.result)))
    assert again.identity == one.identity and settings_of(again.result) == {"session": {"intra_op_threads": 1}}
    more = transformed(work, (one.identity, dict(one.result)), session={"config": {"session.x": "1"}})
    assert settings_of(more.result)["session"] == {"intra_op_threads": 1, "config": {"session.x": "1"}}


def test_what_won_is_what_the_cell_is_checked_and_timed_with_and_its_baseline_is_not(work: Work) -> None:
    before = fetched(work)
    tuned = transformed(work, before, session={"intra_op_threads": 1}, ep_options={"arena": "x"})
    candidate = Side.make(work, HOW, tuned.identity, tuned.result, runtime()).job
    baseline = Side.make(work, HOW, *before, runtime()).job
    assert candidate["session"] == {**SESSION, "intra_op_threads": 1} and baseline["session"] == SESSION
    assert candidate["providers"] == [["CPUExecutionProvider", {"arena": "x"}]]
    assert baseline["providers"] == HOW["providers"]
    good = transformed(work, before, session={"enable_cpu_mem_arena": False})
    assert checked(work, (good.identity, dict(good.result))).status == "ok"
    # An entry that ONNX Runtime refuses shows that the session has what the artefact says.
    entry = {"session.intra_op_thread_affinities": "nonsense"}
    bad = transformed(work, before, session={"config": entry})
    assert checked(work, (bad.identity, dict(bad.result))).status == "failed"


def test_settings_lie_over_the_cells_own_and_below_the_stamp() -> None:
    artefact = {"session": {"intra_op_threads": 1, "config": {"b": "2"}}, "stamp": {"level": "all"}}
    made = session_for({"intra_op_threads": 4, "config": {"a": "1"}}, artefact)
    assert made == {"intra_op_threads": 1, "config": {"a": "1", "b": "2"}, "graph_optimization_level": "disable"}
    providers = [["OpenVINOExecutionProvider", {"device_type": "CPU"}], ["CPUExecutionProvider", {}]]
    assert providers_for(providers, {"ep_options": {"num_of_threads": "1"}}) == [
        ["OpenVINOExecutionProvider", {"device_type": "CPU", "num_of_threads": "1"}],
        ["CPUExecutionProvider", {}],
    ]


# In a matrix

MATRIX = """
[models.m]
path = "path:m.onnx"
validation = "random:"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
session = {{ intra_op_threads = 2, config = {{ "session.a" = "1" }} }}
{recipes}
"""
DEVICE = Device("here", "linux", "x86_64", "Some CPU", frozenset({"avx2"}), 8, 8.0, 8 << 30)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins(third_party=False)


def matrix(folder: Path, plugins: Plugins, recipes: str) -> Matrix:
    (folder / "m.onnx").write_bytes(b"\x08\x08m")
    (folder / "matrix.toml").write_text(MATRIX.format(recipes=recipes), encoding="utf-8")
    return load(folder / "matrix.toml", known(plugins))


def planned(folder: Path, plugins: Plugins, recipes: str, device: Device = DEVICE) -> Plan:
    return make_plan(matrix(folder, plugins, recipes), plugins, device, worker="w")


def test_a_recipe_of_settings_alone_is_timed_against_the_targets_own(tmp_path: Path, plugins: Plugins) -> None:
    recipe = (
        '[recipes.r]\nsession = { intra_op_threads = 1, enable_mem_pattern = false, config = { "session.b" = true } }'
    )
    plan = planned(tmp_path, plugins, recipe)
    [tuned] = [cell for cell in plan.cells if cell.recipe == "r"]
    assert tuned.transforms == () and tuned.baseline == "m/none@stock:cpu/here"
    own = {"intra_op_threads": 1, "enable_mem_pattern": False, "config": {"session.a": "1", "session.b": "1"}}
    target = {"graph_optimization_level": "all", "intra_op_threads": 2, "config": {"session.a": "1"}}
    assert plan.steps[tuned.steps["check"]].parameters["session"] == {"graph_optimization_level": "all", **own}
    timing = plan.steps[tuned.steps["time"]].parameters
    assert timing["candidate"]["session"] == {"graph_optimization_level": "all", **own}
    assert timing["baseline"]["session"] == target
    [plain] = [cell for cell in plan.cells if cell.recipe == "none"]
    assert plan.steps[plain.steps["check"]].parameters["session"] == target


def test_other_settings_are_another_search(tmp_path: Path, plugins: Plugins) -> None:
    recipes = """
[recipes.a]
passes = ["tune-session"]
[recipes.b]
passes = ["tune-session"]
session = { enable_cpu_mem_arena = false }
[recipes.c]
passes = ["tune-session"]
session = { enable_cpu_mem_arena = true }
"""
    plan = planned(tmp_path, plugins, recipes)
    searches = {cell.recipe: plan.steps[cell.steps["artefact"]] for cell in plan.cells if cell.recipe != "none"}
    assert len({step.id for step in searches.values()}) == 3
    assert len({key_of(step, ["x"] * len(step.inputs)) for step in searches.values()}) == 3
    assert all(step.exclusive for step in searches.values())
    assert searches["b"].parameters["measures"]["session"]["enable_cpu_mem_arena"] is False
    other = planned(tmp_path, plugins, recipes, replace(DEVICE, cpu_model="Another CPU"))
    [same] = [other.steps[cell.steps["artefact"]] for cell in other.cells if cell.recipe == "a"]
    assert key_of(same, ["x"] * len(same.inputs)) != key_of(searches["a"], ["x"] * len(same.inputs))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("session = {}", "recipes.r: passes is missing"),
        ("session = { intra_threads = 1 }", "intra_threads"),
        ("session = { intra_op_threads = -1 }", "recipes.r.session.intra_op_threads"),
        ("session = { enable_mem_pattern = 0 }", "recipes.r.session.enable_mem_pattern = 0: must be true or false"),
        ("session = 3", "must be a table"),
        ("passes = []\nsession = { intra_op_threads = 1 }", "recipes.r.passes"),
    ],
)
def test_wrong_settings_are_refused_where_they_stand(tmp_path: Path, plugins: Plugins, recipe: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        matrix(tmp_path, plugins, f"[recipes.r]\n{recipe}")
    assert said in str(refused.value)
    assert "one problem" in str(refused.value)


GPU = """
[models.m]
path = "path:m.onnx"
validation = "random:"
[targets.gpu]
from = "package"
requires = ["onnxruntime-gpu==1.31.1"]
eps = [{ name = "cuda", options = { enable_cuda_graph = 1 } }]
[recipes.copied]
session = { io_binding = false }
"""


def test_settings_that_an_ep_cannot_follow_are_refused_before_anything_runs(tmp_path: Path, plugins: Plugins) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08m")
    (tmp_path / "matrix.toml").write_text(GPU, encoding="utf-8")
    device = replace(DEVICE, gpus=(Gpu("nvidia", "H200", "580.1", 1 << 37, "9.0"),))
    plan = make_plan(load(tmp_path / "matrix.toml", known(plugins)), plugins, device, worker="w")
    why = {cell.recipe: cell.unsupported for cell in plan.cells}
    assert why["none"] == ""
    assert why["copied"].startswith("session: enable_cuda_graph replays fixed addresses")


# In the report

TUNED = {
    "chosen": "intra_op_threads = 1",
    "best": "intra_op_threads = 1",
    "outcome": "faster",
    "ratio": 1.31,
    "low": 1.22,
    "high": 1.38,
    "noise": 0.03,
    "tried": [
        {"setting": "intra_op_threads = 1", "against": "the default session", "outcome": "promising", "ratio": 1.3}
        | {"low": 1.1, "high": 1.5},
        {"setting": "intra_op_threads = 64", "against": "the default session", "outcome": "failed"}
        | {"problem": "it crashed (SIGABRT)"},
    ],
    "skipped": {"spinning": "there is one thread only"},
    "paste": {"recipe": "session = { intra_op_threads = 1 }"},
}


def test_the_report_shows_what_was_tried_and_the_line_to_paste() -> None:
    entry = cell("m", "tuned", "stock", "pass", error=0.0, speed=1.3)
    entry["artefact"] |= {"changed": {"tune-session": TUNED}, "session": {"intra_op_threads": 1}}
    screen = io.StringIO()
    show_cell(entry, {"cells": [entry]}, Console(file=screen, width=300))
    page = str(_detail(entry, {"cells": [entry]}, {entry["id"]: "c0"}))
    for said in (
        "intra_op_threads: 1",
        "1.31 [1.22, 1.38] times the default",
        "spinning: there is one thread only",
        "session = { intra_op_threads = 1 }",
    ):
        assert said in screen.getvalue()
        assert said in page
    rows = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert "intra_op_threads = 1 the default session 1.30\N{MULTIPLICATION SIGN} [1.10, 1.50] promising" in rows
    assert "intra_op_threads = 64 the default session it crashed (SIGABRT)" in rows
    assert "intra_op_threads = 1: promising, 1.30 [1.10, 1.50] against the default session" in page
    assert "intra_op_threads = 64: failed, it crashed (SIGABRT)" in page
    assert "'tried'" not in screen.getvalue() + page
