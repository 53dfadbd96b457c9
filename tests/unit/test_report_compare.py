"""Comparing two runs: regressions first, and no claim about speed that two runs cannot carry."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from ortforge.report.compare import compare, show

from .report_sample import cell, parity, sample_report, timing

INT8 = "minilm/int8@stock:cpu/here"
BASE = "minilm/none@stock:cpu/here"


@pytest.fixture
def runs() -> tuple[dict[str, Any], dict[str, Any]]:
    before = sample_report()
    after = copy.deepcopy(before)
    after["run"]["id"] = "20261121-101500-3c4d"
    return before, after


def find(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in report["cells"] if entry["id"] == name)


def latency(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in found["latency"] if entry["id"] == name)


def slow_down(report: dict[str, Any], name: str, ratio: float) -> None:
    entry = find(report, name)
    entry["timing"] = timing(ratio, 20.0, baseline=entry["timing"]["baseline"])
    entry["overall"] = {key: entry["timing"][key] for key in ("ratio", "low", "high")}


def test_a_run_compared_with_itself_has_no_changes(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found = compare(runs[0], runs[0])
    assert (found["regressions"], found["improvements"]) == (0, 0)
    assert not any(found[part] for part in ("added", "removed", "status", "parity", "notes"))
    assert {entry["outcome"] for entry in found["latency"]} == {"undecided"}


def test_regressions_come_first_and_are_counted(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    find(after, "silero-vad/none@openvino:openvino/here")["status"] = "pass"
    find(after, INT8)["status"] = "crashed"
    found = compare(before, after)
    assert [entry["change"] for entry in found["status"]] == ["regression", "improvement"]
    assert found["status"][0]["id"] == INT8
    assert (found["regressions"], found["improvements"]) == (1, 1)


def test_another_way_to_die_is_no_regression(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    find(after, "silero-vad/none@openvino:openvino/here")["status"] = "timeout"
    found = compare(before, after)
    assert [entry["change"] for entry in found["status"]] == ["other"]
    assert found["regressions"] == 0


def test_a_cell_that_vanished_is_a_regression_and_a_new_one_is_none(
    runs: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    before, after = runs
    gone = after["cells"].pop()
    after["cells"].append(cell("new", "none", "stock", "pass", error=0.0))
    found = compare(before, after)
    assert found["added"] == ["new/none@stock:cpu/here"]
    assert found["removed"] == [gone["id"]]
    assert found["regressions"] == 1
    assert compare(after, {**after, "cells": [*after["cells"], gone]})["regressions"] == 0
    output = io.StringIO()
    show(found, Console(file=output, width=200))
    assert "1 regression (1 vanished)" in output.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("pass", "no-gain", "undecided"),
        ("pass", "undecided", "undecided"),
        ("slower", "undecided", "undecided"),
        ("pass", "unproven", "regression"),
        ("inaccurate", "unproven", "improvement"),
        ("failed", "damaged", "other"),
        ("unsupported", "incompatible", "other"),
        ("unsupported", "crashed", "regression"),
    ],
)
def test_statuses_that_differ_by_noise_or_in_kind_only_are_no_regressions(
    runs: tuple[dict[str, Any], dict[str, Any]], old: str, new: str, change: str
) -> None:
    before, after = runs
    find(before, INT8)["status"], find(after, INT8)["status"] = old, new
    assert [entry["change"] for entry in compare(before, after)["status"]] == [change]
    # One that was not timed was at least told: only undecided says nothing.
    find(after, INT8)["timing"] = None
    untimed = "regression" if (old, new) == ("pass", "no-gain") else change
    assert [entry["change"] for entry in compare(before, after)["status"]] == [untimed]


def test_a_ratio_to_the_same_baseline_can_show_that_a_cell_became_slower(
    runs: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    before, after = runs
    slow_down(after, INT8, 1.2)
    entry = latency(compare(before, after), INT8)
    assert entry["outcome"] == "slower"
    assert BASE in entry["why"]
    assert compare(before, after)["regressions"] == 1
    assert latency(compare(after, before), INT8)["outcome"] == "faster"


def test_ratios_that_overlap_or_lie_within_the_noise_tell_nothing(
    runs: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    before, after = runs
    slow_down(after, INT8, 1.80)
    entry = latency(compare(before, after), INT8)
    assert entry["ratio_after"]["high"] < entry["ratio_before"]["low"]
    assert entry["outcome"] == "undecided"


def test_milliseconds_alone_never_make_a_cell_slower(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    for entry in after["cells"]:
        if entry["timing"]:
            entry["timing"]["p50_s"] *= 3
    found = compare(before, after)
    assert {entry["outcome"] for entry in found["latency"]} == {"undecided"}
    assert found["regressions"] == 0


def test_other_devices_are_said_and_not_compared(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    slow_down(after, INT8, 1.2)
    after["device"]["identity"] = "another"
    found = compare(before, after)
    entry = latency(found, INT8)
    assert entry["outcome"] == "undecided"
    assert "device" in entry["differs"]
    assert any("devices differ" in note for note in found["notes"])


def test_a_contended_run_tells_nothing(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    slow_down(after, INT8, 1.2)
    find(after, INT8)["timing"]["trust"] = "contended"
    assert latency(compare(before, after), INT8)["outcome"] == "undecided"


def test_a_baseline_on_another_build_is_no_common_measure(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    slow_down(after, INT8, 1.2)
    find(after, BASE)["runtime_hash"] = "another build"
    entry = latency(compare(before, after), INT8)
    assert entry["outcome"] == "undecided"
    assert "no baseline" in entry["why"]


def test_where_a_runtime_was_upgraded_the_matrix_baseline_still_compares() -> None:
    plain = "minilm/none@next:cpu/here"
    cells = sample_report()["cells"][:1]
    cells.append(cell("minilm", "none", "next", "pass", error=0.0, speed=1.1))
    cells.append(cell("minilm", "int8", "next", "pass", error=0.08, speed=1.8))
    before = sample_report(cells)
    after = copy.deepcopy(before)
    for entry in after["cells"][1:]:
        entry["runtime_hash"] = "the newer build"
    upgraded = find(after, "minilm/int8@next:cpu/here")
    upgraded["overall"] = {"ratio": 2.6, "low": 2.5, "high": 2.7}
    assert upgraded["timing"]["baseline"] == plain
    entry = latency(compare(before, after), upgraded["id"])
    assert (entry["outcome"], entry["differs"]) == ("faster", ["runtime"])
    assert BASE in entry["why"]


def test_a_verdict_that_noise_pushed_over_the_line_is_no_regression(
    runs: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    before, after = runs
    find(after, INT8)["status"] = "slower"
    assert [entry["change"] for entry in compare(before, after)["status"]] == ["undecided"]
    assert compare(before, after)["regressions"] == 0
    slow_down(after, INT8, 0.8)
    assert [entry["change"] for entry in compare(before, after)["status"]] == ["regression"]
    assert compare(before, after)["regressions"] == 1


def test_parity_changes_name_their_measure(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    find(after, INT8)["parity"] = parity(0.9)
    changes = {entry["measure"]: entry["change"] for entry in compare(before, after)["parity"]}
    assert changes["cosine"] == "worse"
    assert changes["max_rel_range"] == "worse"
    assert changes["drop of accuracy"] == "worse"


def test_what_differs_in_a_runtime_is_named(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    after["runtimes"]["older"]["hash"] = "x"
    after["runtimes"]["older"]["packages"][1]["version"] = "1.21.2"
    after["runtimes"]["stock"]["hash"] = "y"
    after["runtimes"]["stock"]["packages"][1]["sha256"] = "rebuilt"
    notes = " ".join(compare(before, after)["notes"])
    assert "onnxruntime 1.21.1 → 1.21.2" in notes
    assert "onnxruntime 1.32.0 is another build" in notes


def test_cells_of_machines_with_other_device_names_are_matched(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    for entry in after["cells"]:
        entry["id"] = entry["id"].replace("/here", "/there")
        entry["device"] = "there"
    found = compare(before, after)
    assert (found["added"], found["removed"]) == ([], [])


def test_the_comparison_is_shown(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, after = runs
    find(after, INT8)["status"] = "crashed"
    find(after, INT8)["reasons"] = ["It died of SIGSEGV [red]."]
    console = Console(file=io.StringIO(), width=80)
    show(compare(before, after), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"regression  {INT8}  pass → crashed" in text
    assert "SIGSEGV [red]." in text
    assert text.rstrip().endswith("1 regression, 0 improvements.")
