"""How numbers are said: without claiming more than was measured."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ortforge.api.wording import (
    TIMES,
    cosine,
    duration,
    latency,
    marks,
    parity_text,
    percent,
    placement_text,
    printable,
    short_speed,
    size,
    speed,
    task_drop,
)

FASTER = {"ratio": 1.83, "low": 1.79, "high": 1.87, "outcome": "faster", "noise": 0.03}


def test_a_ratio_is_said_with_its_interval() -> None:
    assert speed(FASTER) == f"1.83{TIMES} [1.79, 1.87]"
    assert short_speed(FASTER) == f"1.83{TIMES} ±3%"


def test_what_cannot_be_told_is_never_said_as_a_ratio() -> None:
    unclear = {"ratio": 1.02, "low": 0.99, "high": 1.04, "outcome": "undecided", "noise": 0.03}
    assert speed(unclear) == "undecided (±3.0%)"
    assert short_speed(unclear) == "undecided"
    wide = {**unclear, "low": 0.9, "high": 1.2}
    assert speed(wide) == "undecided (±15%)"


def test_no_difference_is_said_with_what_could_hide_in_it() -> None:
    assert speed({"ratio": 1.0, "low": 0.99, "high": 1.02, "outcome": "same", "noise": 0.5}) == "same (±1.5%)"


@pytest.mark.parametrize(("low", "high"), [(2.93e-14, 2.09e9), (0.1, 46.5), (0.0, 3.0)])
def test_numbers_that_measure_nothing_are_not_printed(low: float, high: float) -> None:
    wild = {"ratio": 1.0, "low": low, "high": high, "outcome": "undecided", "measurable": False, "noise": 0.03}
    assert speed(wild) == short_speed(wild) == "not measurable on this machine"
    assert speed({"ratio": 1.0, "low": low, "high": high}) == "not measurable on this machine"


def test_missing_numbers_are_said_as_nothing() -> None:
    assert [size(None), latency(None), duration(None), percent(None), cosine(None), speed(None)] == [""] * 6
    assert [parity_text(None), placement_text(None), task_drop(None), short_speed(None)] == [""] * 4


def test_sizes_and_times_at_the_edges_of_their_units() -> None:
    assert [size(0), size(999), size(1000), size(999_960)] == ["0 B", "999 B", "1.0 kB", "1.0 MB"]
    assert [latency(0.0009999), latency(0.999), latency(0)] == ["1 ms", "999 ms", "0 µs"]
    assert [duration(59.99), duration(3599.9), duration(3600)] == ["1 min 0 s", "1 h 0 min", "1 h 0 min"]


@example(0.9999999999999)
@given(st.floats(0, 1))
def test_only_equality_is_said_as_one(value: float) -> None:
    assert (float(cosine(value).lstrip(">")) == 1.0) == (value == 1.0)
    if 0 < value < 1:
        assert percent(value) not in ("0%", "100%")


@given(st.text())
def test_printable_text_moves_no_cursor(text: str) -> None:
    said = printable(text)
    assert printable(said) == said
    assert all(letter in "\n\t" or not (ord(letter) < 32 or 127 <= ord(letter) < 160) for letter in said)


def test_marks_say_what_to_know_before_trusting_a_number() -> None:
    cell = {
        "status": "pass",
        "random": ["validation"],
        "artefact": {"no_op": True},
        "parity": {"identical": True},
        "timing": {"trust": "contended"},
    }
    assert marks(cell) == ("contended", "random data", "no-op")
    assert marks({"status": "pass", "parity": {}, "timing": None}) == ()
    assert marks({"status": "pass", "parity": {"identical": True}, "timing": None}) == ("not timed",)
    untouched = {"status": "no-gain", "parity": {"identical": True}, "timing": None, "artefact": {"no_op": True}}
    assert marks(untouched) == ("no-op",)


def test_placement_falls_back_on_nodes_and_says_when_sources_disagree() -> None:
    nodes = {"OpenVINOExecutionProvider": 3, "CPUExecutionProvider": 1}
    assert placement_text({"nodes": nodes, "time_share": {}}) == "OpenVINO 75.0%, CPU 25.0%"
    assert placement_text({"nodes": nodes, "agree": False}).endswith("(sources disagree)")


def test_a_composed_ratio_whose_interval_holds_one_tells_nothing() -> None:
    assert speed({"ratio": 0.8, "low": 0.5, "high": 1.5}) == "undecided (±50%)"
    assert speed({"ratio": 0.6, "low": 0.5, "high": 0.7}) == f"0.60{TIMES} [0.50, 0.70]"
