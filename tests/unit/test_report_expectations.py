"""Whether a run ended as expected: what is worse, what is better, and what counts without expectations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortforge.matrix.expectations import Expectation
from ortforge.portable.statuses import BROKEN, CORRECT, STATUSES
from ortforge.report.expectations import assess, is_worse
from ortforge.report.ships import what_ships

SPEED = ("pass", "no-gain", "undecided", "slower")


def cell(recipe: str, status: str, *, target: str = "stock", high: float | None = None, **more: Any) -> dict[str, Any]:
    place = {"model": "m", "target": target, "ep": "cpu", "device": "here", "recipe": recipe}
    timing = None
    if high is not None:
        timing = {"ratio": high - 0.01, "low": high - 0.02, "high": high, "noise": 0.03, "outcome": "can't tell"}
    known = {"status": status, "reasons": [f"Because of {recipe}."], "timing": timing, "keys": {"check": "k"}}
    return {"id": f"m/{recipe}@{target}:cpu/here", **place, **known, **more}


def verdict(*cells: dict[str, Any], strict: bool = False, **expected: Any) -> dict[str, Any]:
    """Assess cells; expectations by recipe: accepted where it is a status, listed where it is a list."""
    report: dict[str, Any] = {"cells": list(cells)}
    report["ships"] = what_ships(report)
    expectations = {}
    for recipe, status in expected.items():
        accepted = isinstance(status, str)
        source = "matrix.expect.toml" if accepted else "matrix.toml"
        entry = Expectation((status,) if accepted else tuple(status), "", source, accepted=accepted)
        expectations |= {one["id"]: entry for one in cells if one["recipe"] == recipe}
    return assess(report, expectations, strict=strict)


def outcome(now: dict[str, Any], expected: Any) -> str:
    found = verdict(now, **{now["recipe"]: expected})
    return str(found["cells"][now["id"]]["outcome"])


# Without expectations


@pytest.mark.parametrize("status", ["no-gain", "undecided", "slower", "unproven", "inaccurate", "misplaced"])
def test_a_recipe_that_was_tried_and_lost_is_no_failure(status: str) -> None:
    assert verdict(cell("none", "pass"), cell("int8", status))["met"]


@pytest.mark.parametrize("status", sorted(BROKEN))
def test_a_cell_that_broke_is_one(status: str) -> None:
    found = verdict(cell("none", "pass"), cell("int8", status))
    assert [problem["cell"] for problem in found["problems"]] == ["m/int8@stock:cpu/here"]
    assert "Because of int8." in found["problems"][0]["what"]


@pytest.mark.parametrize("status", sorted(set(STATUSES) - CORRECT - BROKEN))
def test_a_place_without_anything_correct_to_ship_is_one(status: str) -> None:
    found = verdict(cell("none", "pass"), cell("none", status, target="older"))
    assert [problem["cell"] for problem in found["problems"]] == ["m/none@older:cpu/here"]
    assert "Nothing is shown to be correct for m on older:cpu" in found["problems"][0]["what"]


@pytest.mark.parametrize("status", ["unsupported", "incompatible"])
def test_what_cannot_run_here_and_was_known_up_front_is_none(status: str) -> None:
    known = {"keys": {}}
    assert verdict(cell("none", "pass"), cell("none", status, target="gpu", **known))["met"]
    assert verdict(cell("none", "pass"), cell("int8", status, **known))["met"]


def test_where_the_unoptimized_model_was_not_run_nothing_is_said_of_what_ships() -> None:
    report: dict[str, Any] = {"cells": [cell("int8", "inaccurate")]}
    report["ships"] = what_ships(report)
    assert not assess(report, {})["met"]  # the matrix has no unoptimized model there
    assert assess(report, {}, left_out={"m/none@stock:cpu/here"})["met"]
    assert verdict(cell("int8", "slower"))["met"]


def test_strict_requires_pass_everywhere_whatever_is_expected() -> None:
    cells = cell("none", "pass"), cell("int8", "no-gain")
    assert not verdict(*cells, strict=True, int8="no-gain")["met"]
    assert verdict(cell("none", "pass"), strict=True)["met"]
    assert not verdict(cell("none", "unsupported", keys={}), strict=True)["met"]


# With expectations


@given(st.sampled_from(STATUSES))
def test_a_verdict_that_was_accepted_is_as_expected(status: str) -> None:
    found = verdict(cell("none", status), none=status)
    assert found["met"]
    assert found["cells"]["m/none@stock:cpu/here"]["outcome"] == "expected"


@given(st.sampled_from(STATUSES), st.sampled_from(STATUSES), st.none() | st.floats(0.2, 5))
def test_what_is_better_than_expected_is_never_worse(now: str, then: str, high: float | None) -> None:
    told = outcome(cell("none", now, high=high), then)
    if STATUSES.index(now) < STATUSES.index(then):
        assert told != "worse"
    if now in SPEED and then in SPEED and now == "undecided":
        assert told != "worse"
    if now not in SPEED and then in SPEED:
        assert told == "worse"


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ("pass", "inaccurate", "worse"),
        ("pass", "unproven", "worse"),
        ("inaccurate", "slower", "better"),
        ("unsupported", "crashed", "worse"),
        ("unsupported", "incompatible", "changed"),
        ("crashed", "timeout", "changed"),  # which way a cell breaks may vary
        ("failed", "unsupported", "better"),
        ("slower", "pass", "better"),
        ("slower", "undecided", "expected"),
        ("undecided", "slower", "changed"),
    ],
)
def test_accepted_verdicts(then: str, now: str, told: str) -> None:
    assert outcome(cell("int8", now, high=0.8), then) == told


def test_a_speed_within_the_noise_flips_nothing_and_one_shown_to_be_worse_does() -> None:
    assert outcome(cell("int8", "undecided", high=0.5), "pass") == "expected"
    assert outcome(cell("int8", "slower", high=0.9), "pass") == "worse"
    # At the edge of the margin one run finds a gain of 3.1 %, and the next one of 2.9 %.
    assert outcome(cell("int8", "no-gain", high=1.029), "pass") == "changed"
    assert outcome(cell("int8", "no-gain", high=0.99), "pass") == "worse"
    assert outcome(cell("int8", "slower", high=0.968), "no-gain") == "changed"
    assert outcome(cell("int8", "slower", high=0.9), "no-gain") == "worse"
    contended = cell("int8", "slower", high=0.5)
    contended["timing"]["trust"] = "contended"
    assert outcome(contended, "pass") == "changed"
    assert outcome(cell("int8", "no-gain", high=1.2, artefact={"no_op": True}), "pass") == "worse"


def test_a_list_of_statuses_is_taken_at_its_word_except_that_undecided_says_nothing() -> None:
    assert outcome(cell("int8", "no-gain", high=1.029), ["pass"]) == "worse"
    assert outcome(cell("int8", "no-gain"), ["pass", "no-gain"]) == "expected"
    assert outcome(cell("int8", "slower"), ["pass", "no-gain"]) == "worse"
    assert outcome(cell("int8", "undecided"), ["pass"]) == "expected"
    assert outcome(cell("int8", "undecided"), ["inaccurate", "slower"]) == "expected"
    assert outcome(cell("int8", "undecided"), ["inaccurate"]) == "better"
    assert outcome(cell("int8", "timeout"), ["crashed"]) == "worse"
    assert outcome(cell("int8", "pass"), ["inaccurate", "unsupported"]) == "better"


def test_an_expected_failure_is_none_and_its_place_need_not_ship() -> None:
    broken = cell("none", "failed", target="openvino"), cell("int8", "blocked", target="openvino")
    expected = verdict(*broken, none=["failed"], int8=["blocked"])
    assert expected["met"]
    found = verdict(*broken, none=["failed"])
    assert [problem["cell"] for problem in found["problems"]] == [broken[1]["id"]]
    # A recipe that is expected to lose says nothing about the unoptimized model.
    wrong = cell("none", "inaccurate"), cell("int8", "inaccurate")
    assert not verdict(*wrong, int8=["inaccurate"])["met"]
    assert verdict(*wrong, none=["inaccurate"])["met"]


def test_each_cell_that_got_worse_or_better_or_has_no_expectation_is_named() -> None:
    cells = cell("none", "pass"), cell("int8", "inaccurate"), cell("fp16", "pass"), cell("new", "slower")
    found = verdict(*cells, none="pass", int8="pass", fp16="inaccurate")
    assert (found["worse"], found["better"]) == (["m/int8@stock:cpu/here"], ["m/fp16@stock:cpu/here"])
    assert found["without"] == ["m/new@stock:cpu/here"]
    (problem,) = found["problems"]
    assert problem["what"] == "matrix.expect.toml expects pass, and it is inaccurate: Because of int8."


def test_is_worse_is_no_order_among_ways_to_break() -> None:
    assert not any(is_worse(cell("none", one), two) for one in BROKEN for two in BROKEN)
