"""Timing in turns: who goes when, on which samples, for how long, and what is kept of it.

The workers are real processes; their runtime is a stand-in whose runs take as long as the test says and leave a trace.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ortforge.api import TaskOutcome
from ortforge.engine import pairs
from ortforge.engine.pairs import MAX_REPEATS, MOST_KEPT, MOST_LOADS, Side, alone, measure, thinned
from ortforge.engine.work import Work, ready
from ortforge.runtime.supervisor import Interpreter
from ortforge.store.locks import hold
from ortforge.worker.samples import SampleWriter

RUNTIME = """
import os, signal, time
__version__ = "1.99.0"
DELAY, TRACE, DIES = float(os.environ["DELAY"]), os.environ["TRACE"], int(os.environ.get("DIES", "0"))
LOADS, alive = float(os.environ["LOADS"]), []
class GraphOptimizationLevel: ORT_ENABLE_ALL = 99
class SessionOptions:
    def add_session_config_entry(self, name, value): ...
def get_available_providers(): return ["CPUExecutionProvider"]
class Argument: name, type, shape = "x", "tensor(float)", [1]
class InferenceSession:
    def __init__(self, *given, **options):
        if LOADS:
            with open(TRACE + ".loads", "a") as file:
                file.write(f"{time.monotonic_ns()} {len(alive)}\\n")
            time.sleep(LOADS)
        alive.append(1)
        self.runs = []
    def get_providers(self): return get_available_providers()
    def get_inputs(self): return [Argument()]
    def get_overridable_initializers(self): return []
    def get_outputs(self): return []
    def run(self, names, feeds):
        self.runs.append((time.monotonic_ns(), float(feeds["x"][0])))
        if DIES and len(self.runs) > DIES:
            os.kill(os.getpid(), signal.SIGSEGV)
        if DELAY:
            time.sleep(DELAY)
    def __del__(self):
        alive.pop()
        if self.runs:
            with open(TRACE, "w") as file:
                file.write(repr(self.runs))
"""


class Bench:
    """A store with three samples, and sides whose runtime behaves as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work: Work = ready(str(folder / "store"))
        writer = SampleWriter(folder / "samples", ["x"])
        for number in range(3):
            writer.write({"x": np.array([number], np.float32)})
        writer.close(random=True)
        self.data = self.work.store.objects.put(folder / "samples", keep=True)
        package = folder / "runtime" / "onnxruntime"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(RUNTIME, encoding="utf-8")

    def side(self, name: str, delay: float, dies: int = 0, loads: float = 0.0) -> Side:
        extra = {"DELAY": str(delay), "DIES": str(dies), "TRACE": str(self.folder / name), "LOADS": str(loads)}
        extra["PYTHONPATH"] = str(self.folder / "runtime")
        interpreter = Interpreter.local(Path(sys.executable), worker=self.work.worker, environment=extra)
        providers: list[Any] = [["CPUExecutionProvider", {}]]
        return Side(interpreter, {"op": "time", "model": "", "ep": "cpu", "providers": providers, "session": {}})

    def measure(
        self, baseline: Side, candidate: Side, budget_s: float, rounds: int, *, loads: bool = False
    ) -> tuple[dict[str, Any], TaskOutcome | None]:
        limits = {"import_s": 30, "load_s": 30, "run_s": 30, "memory": 2 << 30}
        parameters = {"budget_s": budget_s, "rounds": rounds, "loads": loads}
        return measure(self.work, baseline, candidate, self.data, parameters, {"limits": limits})

    def loads(self, name: str) -> list[tuple[int, int]]:
        """Return when each session was made, and how many others were alive in that process."""
        lines = (self.folder / f"{name}.loads").read_text().splitlines()
        return [(int(when), int(alive)) for when, alive in map(str.split, lines)]

    def trace(self, name: str) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = eval((self.folder / name).read_text())
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_both_sides_meet_the_same_samples_and_take_turns_at_going_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    facts, failure = bench.measure(bench.side("a", 0.012), bench.side("b", 0.012), 0.4, 1)
    assert failure is None
    first, second = bench.trace("a"), bench.trace("b")
    assert [value for _, value in first] == [value for _, value in second]
    assert [value for _, value in first[1:7]] == [0, 1, 2, 0, 1, 2]
    taken = len(facts["round_pairs"][0])
    leads = [one[0] < other[0] for one, other in zip(first[-taken:], second[-taken:], strict=True)]
    assert taken >= 2  # five where the machine is free
    assert all(one != other for one, other in pairwise(leads))


def test_the_rounds_end_when_the_comparison_is_decided(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)
    facts, failure = bench.measure(bench.side("a", 0.1), bench.side("b", 0.05), 6.0, 12)
    assert failure is None
    assert 2 <= len(facts["round_pairs"]) < 12


def test_contended_rounds_are_repeated_and_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch, busy_rounds=(0,))
    facts, _ = bench.measure(bench.side("a", 0.004), bench.side("b", 0.004), 0.9, 3)
    assert (facts["trust"] == "contended", facts["contended_rounds"]) == (False, 1)
    assert len(facts["round_pairs"]) in (2, 3)


def test_on_a_machine_that_stays_busy_the_timing_is_contended_and_short(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch, busy_rounds=range(20))
    facts, _ = bench.measure(bench.side("a", 0.02), bench.side("b", 0.004), 1.2, 8)
    assert facts["trust"] == "contended"
    assert len(facts["round_pairs"]) == facts["contended_rounds"] == MAX_REPEATS + 1


def quiet(monkeypatch: pytest.MonkeyPatch, busy_rounds: Collection[int] = ()) -> None:
    """Replace what the kernel says of the machine that runs the test, which may be busy."""
    asked = count()
    told = [0.0]

    def pressure() -> float:
        number, is_end = divmod(next(asked), 2)
        told[0] += 60e6 if is_end and number in busy_rounds else 0.0
        return told[0]

    monkeypatch.setattr(pairs, "pressure", pressure)


def test_both_workers_of_a_round_start_at_once_and_load_one_after_the_other(bench: Bench) -> None:
    sides = [bench.side("a", 0.001, loads=0.3), bench.side("b", 0.001, loads=0.3)]
    _, failure = bench.measure(*sides, 0.1, 1)
    assert failure is None
    first, second = bench.loads("a")[0][0], bench.loads("b")[0][0]
    assert 0.3e9 <= abs(first - second) < 1.5e9


def test_a_slow_model_does_not_outstay_its_budget(bench: Bench) -> None:
    facts, failure = bench.measure(bench.side("a", 0.25), bench.side("b", 0.25), 0.1, 4)
    assert failure is None
    # Without patience's end it is five pairs and six turns of warm-up in each of four rounds: 25 s.
    assert [len(one) for one in facts["round_pairs"]] == [2]
    assert len(bench.trace("a")) == len(bench.trace("b")) <= 5
    assert facts["trust"] in {"noisy", "contended"}  # few samples, or the machine that runs this test is busy


def test_a_model_of_microseconds_has_turns_of_many_iterations_and_leaves_little_behind(bench: Bench) -> None:
    facts, failure = bench.measure(bench.side("a", 0), bench.side("b", 0), 0.5, 1)
    assert failure is None
    assert len(facts["samples"]) == len(facts["baseline_samples"]) == MOST_KEPT
    assert len(bench.trace("a")) > 50 * len(facts["round_pairs"][0])
    assert facts["p99_s"] is not None
    assert len(json.dumps(facts["samples"])) < 20_000


def test_loads_take_turns_after_the_runs_and_no_two_sessions_are_in_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    sides = [bench.side("a", 0.001, loads=0.02), bench.side("b", 0.001, loads=0.01)]
    facts, failure = bench.measure(*sides, 1.2, 1, loads=True)
    assert failure is None
    (loads,) = facts["load_pairs"]
    assert all(one > 0.02e9 and other > 0.01e9 for one, other in loads)
    first, second = bench.loads("a"), bench.loads("b")
    turn, left = divmod(len(first) - 1, len(loads))  # without the processes' own start
    assert len(first) == len(second) and left == 0 and turn >= 1
    assert {alive for _, alive in first + second} == {0}
    leads = [one[0] < other[0] for one, other in zip(first[1::turn], second[1::turn], strict=True)]
    assert all(one != other for one, other in pairwise(leads))
    assert bench.trace("a")[-1][0] < first[1][0]
    assert len(loads) <= MOST_LOADS


def test_a_load_that_takes_longer_than_its_share_is_timed_where_it_happens(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch)
    facts, failure = bench.measure(bench.side("a", 0, loads=0.3), bench.side("b", 0, loads=0.2), 0.4, 2, loads=True)
    assert failure is None
    assert [len(one) for one in facts["load_pairs"]] == [1, 1]
    assert len(bench.loads("a")) == len(bench.loads("b")) == 2
    assert "load_pairs" not in bench.measure(bench.side("a", 0), bench.side("b", 0), 0.1, 1)[0]


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_the_side_that_died_is_named(bench: Bench, side: str) -> None:
    sides = [bench.side(name, 0.001, dies=8 if name == side else 0) for name in ("baseline", "candidate")]
    facts, failure = bench.measure(sides[0], sides[1], 0.3, 1)
    assert facts == {}
    assert failure is not None
    assert failure.status == "crashed"
    assert failure.result == {"side": side}
    assert f"its {side} ended" in failure.reason
    assert "SIGSEGV" in failure.reason


def test_an_interrupted_run_does_not_wait_for_anothers_timing(bench: Bench) -> None:
    bench.work.cancel.set()
    with hold(bench.work.store.root / "locks" / "timing"), pytest.raises(Exception, match="in use"), alone(bench.work):
        pass


def test_the_threads_that_computed_are_counted_and_unequal_ones_are_noted(tmp_path: Path) -> None:
    """With ONNX Runtime itself, on convolutions that are worth a second thread."""
    weights = [numpy_helper.from_array(np.full((32, 32, 3, 3), 1e-3, np.float32), f"w{n}") for n in range(3)]
    nodes = [helper.make_node("Conv", [f"y{n}" if n else "x", f"w{n}"], [f"y{n + 1}"]) for n in range(3)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y3"))
    x.type.tensor_type.shape.CopyFrom(helper.make_tensor_value_info("x", 1, [1, 32, 64, 64]).type.tensor_type.shape)
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    work = ready(str(tmp_path / "store"))
    writer = SampleWriter(tmp_path / "samples", ["x"])
    writer.write({"x": np.ones((1, 32, 64, 64), np.float32)})
    writer.close(random=True)
    data = work.store.objects.put(tmp_path / "samples", keep=True)
    sides = []
    for threads in (1, 2):
        session = {"intra_op_threads": threads}
        job = {"op": "time", "model": str(tmp_path / "m.onnx"), "ep": "cpu", "session": session}
        interpreter = Interpreter.local(Path(sys.executable), worker=work.worker, environment={})
        sides.append(Side(interpreter, {**job, "providers": [["CPUExecutionProvider", {}]]}))
    limits = {"import_s": 60, "load_s": 60, "run_s": 60, "memory": 2 << 30}
    facts, failure = measure(work, *sides, data, {"budget_s": 1.0, "rounds": 1}, {"limits": limits})
    assert failure is None
    assert facts["threads"] == {"candidate": 2, "baseline": 1}
    assert facts["threads_note"] == "The conditions differ: 2 threads computed, and 1 of the baseline."


def test_what_is_kept_of_many_samples_is_spread_evenly() -> None:
    assert thinned([3, 1, 2]) == [3, 1, 2]
    assert thinned(range(10 * MOST_KEPT)) == list(range(0, 10 * MOST_KEPT, 10))
