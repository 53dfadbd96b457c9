"""The HTML page: one file that needs nothing else, holds every cell, and shows whatever a name holds as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortforge.plugins.reports import html
from ortforge.plugins.reports._markup import tag
from ortforge.plugins.reports._pareto import _ticks, front, points_of

from .report_sample import SPEECH_LOG, cell, sample_cells, sample_report

VOID = {"br", "col", "input", "link", "meta"}
SVG = "http://www.w3.org/2000/svg"


class Page(HTMLParser):
    """Elements with their attributes, all text, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = text
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, {key: value or "" for key, value in attributes}))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str, **wanted: str) -> list[dict[str, str]]:
        return [
            attributes
            for found, attributes in self.elements
            if found == name and all(attributes.get(key) == value for key, value in wanted.items())
        ]


def written(folder: Path, report: dict[str, Any]) -> Page:
    path = folder / "report.html"
    html.write(report, path)
    return Page(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(tmp_path_factory.mktemp("page"), sample_report())


def test_the_writer_is_registered() -> None:
    (report,) = html.ortforge_reports()
    assert (report.name, report.suffix) == ("html", ".html")


def test_the_page_is_well_formed_and_needs_nothing_from_outside(page: Page) -> None:
    assert page.open == []
    for name, attributes in page.elements:
        assert name not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not attributes.keys() & {"src", "srcset", "action", "background", "onclick", "onload"}
        assert attributes.get("href", "#").startswith("#")
    assert "://" not in page.source
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_links_and_ids_hold_together(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    labels = {attributes["aria-labelledby"] for attributes in page.all("svg") if "aria-labelledby" in attributes}
    assert labels <= set(ids)


def test_the_policy_allows_the_pages_own_script_alone(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)
    assert len(page.all("script")) == 1


def test_every_cell_is_there_with_its_details(page: Page) -> None:
    rows = page.all("tbody", id="cell-1") + [row for row in page.all("tbody") if row.get("id", "").startswith("cell-")]
    cells = sample_cells()
    assert len(rows) == len(cells) + 1
    for entry, row in zip(cells, rows[1:], strict=True):
        assert (row["data-model"], row["data-status"]) == (entry["model"], entry["status"])
        assert entry["id"] in page.text
        assert entry["command"] in page.text
        for sentence in (*entry["reasons"], *entry["notes"]):
            assert sentence in page.text
    for word in ("contended", "no-op", "random data", "same (±", "too few samples to say"):
        assert word in page.text


def test_the_verdict_comes_before_the_matrix(page: Page) -> None:
    ships, matrix = page.source.index("What ships"), page.source.index("All cells")
    assert page.source.index("<h1>") < ships < matrix
    assert "4 of 14 cells pass" in page.text
    assert "none for ppocr-cls" in page.text


def test_runtimes_are_listed_with_the_digest_of_every_package(page: Page) -> None:
    for runtime in sample_report()["runtimes"].values():
        for package in runtime["packages"]:
            assert package["sha256"] in page.text


def test_logs_lose_escape_sequences_and_keep_their_text(page: Page) -> None:
    assert "\x1b" not in page.source
    assert "\x00" not in page.source
    assert "dynamic rank is not supported ]]> & <end>" in page.text
    assert "\x1b" in SPEECH_LOG


def test_names_are_inert(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    entry = cell(evil, evil, evil, "failed", ep=evil, reasons=(evil,), notes=(evil,), log=evil)
    entry["id"] = entry["command"] = entry["device"] = evil
    fine = cell(evil, "int8", "stock", "pass", error=0.01, speed=2.0)
    plain = cell(evil, "none", "stock", "pass", error=0.0, speed=1.0)
    plain["parity"]["outputs"] = {evil: plain["parity"]["outputs"]["logits"]}
    report = sample_report([entry, plain, fine])
    report["models"][evil] = {"bytes": 1, "licence": evil, "reference": evil, "digest": evil, "opsets": {evil: 1}}
    report["run"] |= {"matrix": evil, "argv": [evil], "host": evil}
    report["device"]["cpu_model"] = evil
    page = written(tmp_path, report)
    assert page.open == []
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert evil in page.text


@settings(max_examples=50)
@given(st.text())
def test_any_text_in_a_tag_is_only_text(text: str) -> None:
    page = Page(tag("p", tag("b", text, title=text), text))
    assert [name for name, _ in page.elements] == ["p", "b"]
    assert page.open == []


def test_a_report_of_failures_alone_is_a_page_too(tmp_path: Path) -> None:
    for cells in ([], [cell("m", "none", "stock", "failed", reasons=("x",))]):
        assert written(tmp_path, sample_report(cells)).open == []


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")
    broken = sample_report()
    broken["cells"][0].pop("status")
    with pytest.raises(KeyError):
        html.write(broken, path)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


# The Pareto plot


def test_the_plot_has_a_labelled_point_per_timed_variant(page: Page) -> None:
    points = [group for group in page.all("g") if group.get("class", "").startswith("point")]
    timed = [entry for entry in sample_cells() if entry["model"] in ("minilm", "silero-vad") and entry["timing"]]
    assert len(points) == len(timed)
    assert all(point["tabindex"] == "0" and point["aria-label"] and point["role"] == "img" for point in points)
    assert any("static-int8 on stock:cpu" in point["aria-label"] for point in points)


def test_a_runtime_has_the_same_colour_in_every_plot(tmp_path: Path) -> None:
    """Whichever is the fastest for a model, and whether it runs the model at all."""
    speeds = {"one": {"stock": 1.0, "older": 2.0}, "two": {"stock": 2.0, "older": 1.0}, "three": {"older": 1.0}}
    cells = [
        cell(model, recipe, target, "pass", error=0.0, speed=speed, p50_ms=10.0 / speed)
        for model, by_target in speeds.items()
        for target, speed in by_target.items()
        for recipe in ("none", "fast")
    ]
    page = written(tmp_path, sample_report(cells))
    points = [group for group in page.all("g") if group.get("class", "").startswith("point")]
    colours = {
        (target, kind)
        for point in points
        for target in ("stock", "older")
        if f"on {target}:cpu" in point["aria-label"]
        for kind in point["class"].split()
        if kind.startswith("colour-")
    }
    assert colours == {("stock", "colour-0"), ("older", "colour-1")}
    listed = re.findall(r'<i class="(colour-\d)"></i>[^<]* on (\w+):cpu', page.source)
    assert len(listed) == len(points) and {(target, kind) for kind, target in listed} == colours


def test_the_front_holds_what_nothing_correct_beats() -> None:
    cells = [
        cell("m", "none", "stock", "pass", error=0.0, speed=1.0, p50_ms=10.0, size=4000),
        cell("m", "fast", "stock", "pass", error=0.08, speed=2.0, p50_ms=5.0, size=1000),
        cell("m", "worse", "stock", "pass", error=0.08, speed=0.5, p50_ms=20.0, size=4000),
        cell("m", "wrong", "stock", "inaccurate", error=2.0, speed=9.0, p50_ms=1.0, size=10),
    ]
    measure, points = points_of(cells, ["stock:cpu"])
    assert measure == "cosine"
    assert [point.cell["recipe"] for point in points] == ["wrong", "fast", "none", "worse"]
    assert {point.cell["recipe"] for point in front(points)} == {"none", "fast"}


def test_latencies_within_the_noise_do_not_beat_each_other() -> None:
    cells = [
        cell("m", "none", "stock", "pass", error=0.0, speed=1.0, p50_ms=10.0),
        cell("m", "same", "stock", "pass", error=0.0, speed=1.0, p50_ms=10.1),
    ]
    assert len(front(points_of(cells, ["stock:cpu"])[1])) == 2


@given(st.floats(-6.0, 2.0), st.floats(0.02, 6.0))
def test_an_axis_has_three_marks_or_more(exponent: float, decades: float) -> None:
    low = 10.0**exponent
    high = low * 10.0**decades
    marks = _ticks(low, high)
    assert 3 <= len(marks) <= 12
    assert low <= marks[0] and marks[-1] <= high and marks == sorted(set(marks))


def test_numbers_of_crowded_points_do_not_lie_on_each_other(tmp_path: Path) -> None:
    cells = [
        cell("m", f"r{number}", "stock", "pass", error=0.0, speed=1.0, p50_ms=10 + number / 50) for number in range(9)
    ]
    source = written(tmp_path, sample_report(cells)).source
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="middle" class="number">', source)
    assert len(places) == 9
    for number, (x, y) in enumerate(places):
        for other_x, other_y in places[:number]:
            assert abs(float(x) - float(other_x)) > 12 or abs(float(y) - float(other_y)) > 11
