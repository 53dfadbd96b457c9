"""JUnit XML, JSON and Markdown: for CI systems, for scripts and for summary pages."""

from __future__ import annotations

import json as jsonlib
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ortforge.plugins.reports import json, junit, markdown

from ortforge.api.wording import printable
from ortforge.matrix.expectations import Expectation

from .report_sample import assessed, cell, sample_cells, sample_report


def suites(folder: Path, report: dict[str, Any]) -> ElementTree.Element:
    path = folder / "report.xml"
    junit.write(report, path)
    return ElementTree.parse(path).getroot()


def cases(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {case.attrib["name"]: case for case in root.iter("testcase")}


CASES = {
    "minilm/none@stock:cpu/here": "",
    "minilm/int8@stock:cpu/here": "",
    # Tried and lost: correct and slower, and not correct.
    "minilm/fp16@stock:cpu/here": "",
    "minilm/static-int8@stock:cpu/here": "skipped",
    "silero-vad/none@stock:cpu/here": "",
    "silero-vad/int8@stock:cpu/here": "",
    "silero-vad/none@openvino:openvino/here": "error",
    "silero-vad/none@gpu:cuda/here": "failure",  # it has steps, so that it does not run was found out
    "magika/none@openvino:openvino/here": "failure",  # nothing ships there
    "magika/none@stock:cpu/here": "",
    "magika/int8@older:cpu/here": "error",
    "magika/fp16@older:cpu/here": "error",
    "ppocr-cls/none@stock:cpu/here": "error",
    "ppocr-cls/int8@stock:cpu/here": "error",
}


def outcome_of(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "")


def test_a_case_fails_when_its_verdict_is_a_reason_for_the_exit_code(tmp_path: Path) -> None:
    report = sample_report()
    found = cases(suites(tmp_path, report))
    assert {name: outcome_of(case) for name, case in found.items()} == CASES
    for entry in report["cells"]:
        case = found[entry["id"]]
        assert float(case.attrib["time"]) >= 0
        assert (outcome_of(case) in ("failure", "error")) == bool(entry["problem"])
        if outcome_of(case):
            assert all(reason in (case[0].text or "") for reason in entry["reasons"])
        # Readers that hide skipped and passed cases' messages show the output.
        assert all(printable(reason) in (case.findtext("system-out") or "") for reason in entry["reasons"])


def test_what_is_expected_is_no_failure(tmp_path: Path) -> None:
    crashed, inaccurate = "silero-vad/none@openvino:openvino/here", "minilm/none@stock:cpu/here"
    expected = {
        crashed: Expectation(("crashed",), "dynamic rank", "matrix.toml"),
        inaccurate: Expectation(("pass",), "", "matrix.expect.toml", accepted=True),
    }
    report = sample_report()
    next(entry for entry in report["cells"] if entry["id"] == inaccurate)["status"] = "inaccurate"
    found = cases(suites(tmp_path, assessed(report, expected)))
    assert outcome_of(found[crashed]) == "skipped"
    assert "expected: dynamic rank" in found[crashed][0].attrib["message"]
    assert outcome_of(found[inaccurate]) == "failure"
    assert "matrix.expect.toml expects pass, and it is inaccurate" in found[inaccurate][0].attrib["message"]
    assert found[inaccurate][0].attrib["type"] == "inaccurate"


def test_a_report_of_an_older_release_still_has_its_errors(tmp_path: Path) -> None:
    report = sample_report()
    for entry in report["cells"]:
        del entry["problem"], entry["expectation"]
    found = cases(suites(tmp_path, report))
    assert outcome_of(found["silero-vad/none@openvino:openvino/here"]) == "error"
    assert outcome_of(found["minilm/static-int8@stock:cpu/here"]) == "skipped"


def test_a_suite_per_model_counts_its_cases(tmp_path: Path) -> None:
    root = suites(tmp_path, sample_report())
    assert [suite.attrib["name"] for suite in root] == ["minilm", "silero-vad", "magika", "ppocr-cls"]
    for suite in (*root, root):
        assert int(suite.attrib["tests"]) == len(list(suite.iter("testcase")))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[name]) == len(list(suite.iter(tag)))


def test_children_stand_in_the_order_of_the_schema(tmp_path: Path) -> None:
    for suite in suites(tmp_path, sample_report()):
        assert [child.tag for child in suite] == ["properties"] + ["testcase"] * (len(suite) - 1)
        for case in suite.iter("testcase"):
            assert [child.tag for child in case][-1] == "system-out"
            assert len(case) <= 2
        assert len(suite.attrib["timestamp"]) == len("2026-11-20T10:15:00")


def test_log_and_command_are_in_the_output(tmp_path: Path) -> None:
    out = (
        cases(suites(tmp_path, sample_report()))["silero-vad/none@openvino:openvino/here"].findtext("system-out") or ""
    )
    assert "dynamic rank is not supported ]]> &  <end>" in out
    assert "ortforge repro" in out


@pytest.mark.parametrize("illegal", ["\x00", "\x0b", "\x1b", "\ufffe", "\ud800"])
def test_what_xml_cannot_hold_is_left_out(tmp_path: Path, illegal: str) -> None:
    text = f"a{illegal}b <&> ü"
    entry = cell(text, text, "stock", "crashed", reasons=(text,), log=text)
    (case,) = cases(suites(tmp_path, sample_report([entry]))).values()
    assert illegal not in case.attrib["name"]
    assert "b <&> ü" in case[0].attrib["message"]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    report = sample_report()
    json.write(report, tmp_path / "report.json")
    assert jsonlib.loads((tmp_path / "report.json").read_text("utf-8")) == report


def test_json_is_strict_where_numbers_are_not(tmp_path: Path) -> None:
    report = sample_report()
    report["cells"][0]["load_s"] = math.nan
    report["cells"][1]["timing"]["samples"][0] = math.inf
    json.write(report, tmp_path / "report.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = jsonlib.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert found["cells"][0]["load_s"] is None
    assert found["cells"][1]["timing"]["samples"][0] is None


def test_json_has_a_line_per_cell(tmp_path: Path) -> None:
    json.write(sample_report(), tmp_path / "report.json")
    lines = (tmp_path / "report.json").read_text("utf-8").splitlines()
    assert sum(line.startswith('  {"id"') for line in lines) == len(sample_cells())


def rows(text: str) -> list[list[str]]:
    return [
        line.removeprefix("| ").removesuffix(" |").split(" | ") for line in text.splitlines() if line.startswith("| ")
    ]


def test_markdown_has_the_verdict_what_ships_and_every_cell(tmp_path: Path) -> None:
    markdown.write(sample_report(), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert text.startswith("## ortforge: 14 cells: 4 pass")
    assert "**int8**" in text
    header_and_rule = 2
    table = [row for row in rows(text.partition("### All cells")[2]) if len(row) == 9]
    assert len(table) == header_and_rule + len(sample_cells())
    read = re.sub(r"\\(.)", r"\1", text)
    assert all(reason in read for entry in sample_cells() for reason in entry["reasons"])


def test_markdown_leaves_names_as_they_are(tmp_path: Path) -> None:
    evil = "a|b`c`\n# d <script>x</script> [l](u) *e* &amp;"
    entry = cell(evil, "none", "stock", "failed", reasons=(evil,))
    markdown.write(sample_report([entry]), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "<script>" not in text
    assert r"a\|b\`c\` \# d" in text
    assert "&amp;amp;" in text
    assert "\n# d" not in text


def test_a_huge_run_still_fits_a_summary_page(tmp_path: Path) -> None:
    cells = [cell(f"model-{number}", "none", "stock", "pass") for number in range(3000)]
    cells.append(cell("the-broken-one", "none", "stock", "failed", reasons=("Broken.",)))
    markdown.write(sample_report(cells), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text("utf-8")
    assert len(text.encode()) < 1 << 20
    assert "the-broken-one" in text
    assert "And 2001 more" in text


def test_writers_are_registered_each_with_a_suffix_of_its_own() -> None:
    reports = [report for module in (json, junit, markdown) for report in module.ortforge_reports()]
    assert sorted(report.suffix for report in reports) == [".json", ".md", ".xml"]
