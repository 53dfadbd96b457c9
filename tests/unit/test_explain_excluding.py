"""The search for a list of nodes to leave out: what it tries, when it ends, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from ortforge.api.explained import compact, exclude_line, first_sentence, outline, trial_rows
from ortforge.engine.excluding import Budget, Measured, alternatives, lists_by_length, search, verdict_on
from ortforge.report.differences import show_differences
from ortforge.report.screen import Screen

NAMES = [f"n{number}" for number in range(40)]
RANKING = [
    {
        "tensor": f"t{number}",
        "node": name,
        "op": "Conv",
        "is_weight": False,
        "nodes": [name],
        "share": 0.5 ** (number + 1),
    }
    for number, name in enumerate(NAMES)
]
RUINED = Measured(0.5, -1.0, 1.0, ("Output y: cosine 0.5 is below 0.99.",))


@dataclass
class Machine:
    """Quantizing, in a world where the model holds as soon as some nodes are in float, and each trial takes a while."""

    needs: int
    seconds: float = 1.0
    now: float = 0.0

    def measure(self, nodes: Sequence[str]) -> Measured:
        self.now += self.seconds
        breaks = () if len(nodes) >= self.needs else ("Output y: cosine 0.9 is below 0.99.",)
        return Measured(0.9, 10.0, 0.1, breaks, seconds=self.seconds)

    def search(self, before: Measured = RUINED, most: int = 20, seconds: float = 1000.0) -> dict[str, Any]:
        budget = Budget(seconds, lambda: self.now)
        return search(RANKING, NAMES[:2], before, most, self.measure, lambda: RANKING, budget)


def test_the_list_grows_until_it_holds_and_is_halved_again() -> None:
    found = Machine(needs=7).search()
    assert [row["nodes"] for row in found["tried"]] == [2, 4, 8, 6, 7]
    assert found["nodes_to_exclude"] == NAMES[:7] and found["ended"] == "holds"


@pytest.mark.parametrize("needs", [1, 2, 3, 5, 12, 20])
def test_what_is_found_holds_and_is_short(needs: int) -> None:
    found = Machine(needs).search()
    assert needs <= len(found["nodes_to_exclude"]) <= max(needs + 1, needs * 8 // 7)


def test_a_list_that_would_be_too_long_is_not_tried() -> None:
    found = Machine(needs=21).search()
    assert found["nodes_to_exclude"] == [] and found["ended"] == "length"
    assert max(row["nodes"] for row in found["tried"]) == 20


def test_the_budget_ends_it_after_one_trial_at_least() -> None:
    found = Machine(needs=9, seconds=50.0).search(seconds=10.0)
    assert len(found["tried"]) == 1 and found["ended"] == "budget"
    # A list that holds already stays found when there is no time to shorten it.
    short = Machine(needs=3, seconds=10.0).search(seconds=40.0)
    assert short["ended"] == "holds" and len(short["nodes_to_exclude"]) == 4


def test_a_model_that_holds_is_tried_once() -> None:
    found = Machine(needs=1).search(before=Measured(0.995, 20.0, 0.01))
    assert [row["nodes"] for row in found["tried"]] == [2]


def test_a_trial_that_fails_counts_as_one_that_does_not_hold() -> None:
    machine = Machine(needs=3)
    real = machine.measure
    machine.measure = lambda nodes: Measured(problem="it did not run: boom") if len(nodes) == 2 else real(nodes)  # type: ignore[method-assign]
    found = machine.search()
    assert found["tried"][0]["problem"] and len(found["nodes_to_exclude"]) in (3, 4)


def test_lists_name_each_node_once_and_begin_with_those_that_are_kept() -> None:
    twice = [{**RANKING[0], "nodes": ["a", "b"]}, {**RANKING[1], "nodes": ["b"]}, {**RANKING[2], "nodes": ["b", "c"]}]
    assert [one.nodes for one in lists_by_length(twice, 10)] == [("a", "b"), ("a", "b", "c")]
    assert lists_by_length(twice, 10)[0].share == 0.75
    assert [one.nodes for one in lists_by_length(twice, 10, kept=["z"])] == [("z", "a", "b"), ("z", "a", "b", "c")]
    assert lists_by_length([], 10) == []


DIFFERENCES: dict[str, Any] = {
    "threshold_db": 16.9,
    "samples": 8,
    "tensors": [],
    "weights": [{"weight": "w", "sqnr_db": 12.0, "shape": [4], "exact": False, "cosine": 0.97, "max_abs": 0.1}],
    "first_diverging": None,
}


def test_other_changes_follow_from_the_numbers() -> None:
    static = {"per_channel": False, "activation_type": "QUInt8", "format": "QDQ"}
    lines = [change for change, _ in alternatives(static, DIFFERENCES)]
    assert lines == [{"per_channel": True}, {"activation_type": "QUInt16", "per_channel": True}]
    assert [change for change, _ in alternatives({**static, "per_channel": True}, DIFFERENCES)] == [
        {"activation_type": "QUInt16"}
    ]
    clean = {**DIFFERENCES, "weights": []}
    assert [change for change, _ in alternatives(static, clean)] == [{"activation_type": "QUInt16"}]
    assert alternatives({"per_channel": True}, DIFFERENCES) == []
    assert alternatives({**static, "format": "QOperator"}, clean) == []


def outcome(machine: Machine, before: Measured = RUINED, instead: Sequence[dict[str, Any]] = (), **limits: Any) -> Any:
    found = machine.search(before, **limits)
    more = {"before": before.facts(), "alternatives": list(instead), "quantized_nodes": 40, "most_nodes": 20}
    more |= {"noise_by_op": {"Conv": 0.8, "Add": 0.2}, "pass": "quantize-static", "budget_s": 120.0, "spent_s": 9.0}
    found |= more | {"samples": 24}
    return {**found, "verdict": verdict_on(found)}


CHANNELS = {"line": "per_channel = true", "why": "weights", **Measured(0.995, 20.0, 0.02, seconds=1.0).facts()}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: outcome(Machine(needs=4)), "With these 4 of 40 nodes in float the tolerance holds"),
        (lambda: outcome(Machine(needs=4), Measured(0.999, 30.0, 0.01)), "holds as it is: no node has to be left out"),
        (lambda: outcome(Machine(needs=99), instead=[CHANNELS]), "The recipe is what to change: per_channel = true"),
        (
            lambda: outcome(Machine(needs=99)),
            "No list of at most 20 of 40 quantized nodes holds the tolerance. Closest",
        ),
        (lambda: outcome(Machine(99, 50.0), seconds=10.0), "longer ones did not fit into 120 s"),
    ],
)
def test_the_verdict_says_what_was_measured(make: Callable[[], Any], said: str) -> None:
    assert said in make()["verdict"]


def shown(found: dict[str, Any]) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    show_differences(Screen(console), {**DIFFERENCES, **found})
    return console.export_text()


def test_the_terminal_shows_predicted_beside_measured_and_the_line_to_paste() -> None:
    text = shown({"exclusion": outcome(Machine(needs=4)), "ranking": RANKING})
    assert "Predicted SQNR" in text and "2 of 40" in text and "holds" in text
    assert 'nodes_to_exclude = ["n0", "n1", "n2", "n3"]' in text
    assert "Put into quantize-static" in text and "Where the outputs' noise comes from" in text


def test_a_list_that_nobody_tried_is_called_a_guess() -> None:
    text = shown({"unproved": "no time was given for it", "nodes_to_exclude": ["n0"]})
    assert "No list of nodes was tried: no time was given for it." in text
    assert "A guess from the ranking below, which nobody has tried" in text


def test_words() -> None:
    assert exclude_line(["a", "b"]) == 'nodes_to_exclude = ["a", "b"]'
    assert "No node diverges" in first_sentence(DIFFERENCES)
    assert dict(outline({"optimize": {"level": "all", "nothing": None, "nodes": list(range(99))}})) == {
        "optimize": "level: all, nodes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 84 more"
    }
    assert compact({}) == "" and compact(True) == "yes"
    rows = list(trial_rows(outcome(Machine(needs=99), instead=[{**CHANNELS, "problem": "the time was up"}])))
    assert rows[0][0] == "none, as it is" and rows[-1][5] == "the time was up"
