"""What a real run's JSON holds is what docs/formats.md says: each key is looked for in the other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, Result, ortforge
from models import classifier, samples

MATRIX = """
[limits]
timing_s = 0.3
rounds = 2
[tolerance]
speed = "any"
[models.small]
path = "path:small.onnx"
validation = "path:data"
[models.broken]
path = "path:broken.onnx"
validation = "path:data"
[targets.stock]
from = "package"
requires = ["onnxruntime==1.32.0"]
[targets.foreign]
from = "package"
requires = ["onnxruntime-directml==1.23.0"]
eps = ["directml"]
[recipes.int8]
passes = [{ use = "quantize-dynamic" }]
[[matrix]]
[[expect]]
cells = "small/none@stock:*"
status = ["pass"]
reason = "the baseline"
"""
TOKEN = re.compile(r'"[^"]*"|[{}\[\],:…]|[A-Z]{2,}(?![a-z])|[^\s{}\[\],:"…]+')

Form = Any
"""A documented value: a dict of key to form, ``[form]`` of a list, the name of another form, or ``None``: anything."""


def read_forms() -> dict[str, Form]:
    """Read the sketches of docs/formats.md: ``CELL = {…}`` and the report itself, under ``""``."""
    section = (ROOT / "docs/formats.md").read_text("utf-8").partition("## Report")[2].partition("\n## ")[0]
    lines = [line.partition(" # ")[0] for line in section.splitlines() if line.startswith("    ")]
    parts = re.split(r"^    ([A-Z]+) = ", "\n".join(lines), flags=re.MULTILINE)
    names = ["", *parts[1::2]]
    return {name: read_value(iter(TOKEN.findall(text)))[0] for name, text in zip(names, parts[::2], strict=True)}


def read_value(tokens: Iterator[str]) -> tuple[Form, str]:
    """Read a value and its comment; return its form and the token that ended it."""
    form: Form = None
    for token in tokens:
        if token in ("}", "]", ","):
            return form, token
        if token == "{":
            form = read_object(tokens)
        elif token == "[":
            inner, end = read_value(tokens)
            while end != "]":
                _, end = read_value(tokens)
            form = [inner] if isinstance(inner, dict | str) else None
        elif form is None and token in ("CELL", "PARITY", "TIMING"):
            form = token
        elif token in ("ID", "IDs"):  # of a cell: a text
            form = None
    return form, ""


def read_object(tokens: Iterator[str]) -> Form:
    form: dict[str, Form] | None = {}
    for token in tokens:
        if token == "}":
            return form
        if token == "…":
            form = None
        elif form is not None and token not in (",", ":"):
            key = token.strip('"') if token.startswith('"') else "*"
            form[key] = None
            end = next(tokens)
            if end == ":":
                form[key], end = read_value(tokens)
            if end == "}":
                return form
    raise AssertionError("a brace is not closed")


class Comparison:
    """Walks a report beside its form, and keeps what only one of them has."""

    def __init__(self, forms: dict[str, Form]) -> None:
        self.forms = forms
        self.unknown: set[str] = set()
        self.seen: defaultdict[str, set[str]] = defaultdict(set)
        self.documented: dict[str, set[str]] = {}

    def walk(self, value: Any, form: Form, place: str) -> None:
        if isinstance(form, str):
            form = self.forms[form]
        if isinstance(form, list):
            assert isinstance(value, list), place
            for item in value:
                self.walk(item, form[0], place)
        elif isinstance(form, dict) and value is not None:
            assert isinstance(value, dict), place
            self.documented[place] = set(form) - {"*"}
            for key, item in value.items():
                if key not in form and "*" not in form:
                    self.unknown.add(f"{place}.{key}")
                    continue
                self.seen[place].add(key)
                self.walk(item, form.get(key, form.get("*")), f"{place}.{key if key in form else '*'}")

    @property
    def missing(self) -> set[str]:
        return {f"{place}.{key}" for place, keys in self.documented.items() for key in keys - self.seen[place]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Result:
    folder = tmp_path_factory.mktemp("format")
    classifier(folder / "small.onnx")
    (folder / "broken.onnx").write_bytes((folder / "small.onnx").read_bytes()[:700])
    samples(folder / "data")
    (folder / "matrix.toml").write_text(MATRIX, encoding="utf-8")
    return ortforge(folder, "run", "--store", str(store), "--json")


def test_the_sketch_is_read_as_it_is_meant() -> None:
    forms = read_forms()
    assert set(forms) == {"", "CELL", "PARITY", "TIMING"}
    assert set(forms["CELL"]["expectation"]) == {"status", "reason", "source", "outcome"}
    assert set(forms[""]["best"]["*"][0]["speed"]) == {"ratio", "low", "high", "outcome", "noise", "measurable"}
    assert forms[""]["cells"] == ["CELL"]
    assert set(forms[""]["runtimes"]["*"]["packages"][0]) == {"name", "version", "wheel", "sha256", "record"}
    assert forms["CELL"]["artefact"]["changed"] is None
    assert forms["CELL"]["timing"] == "TIMING"
    assert {"p50_s", "p90_s", "round_ratios", "baseline_peak_rss"} < set(forms["TIMING"])


def test_every_key_is_documented_and_every_documented_key_is_there(done: Result) -> None:
    assert done.code == 1, done.err
    assert {cell["status"] for cell in done.report["cells"]} > {"unsupported"}
    comparison = Comparison(read_forms())
    comparison.walk(done.report, "", "report")
    assert comparison.unknown == set()
    assert comparison.missing == set()
    assert {"report.cells.timing", "report.cells.parity.worst", "report.ships.*"} <= set(comparison.documented)


def test_cells_have_one_form_whatever_became_of_them(done: Result) -> None:
    assert len({frozenset(cell) for cell in done.report["cells"]}) == 1
    ids = {cell["id"] for cell in done.report["cells"]}
    assert len(ids) == len(done.report["cells"])
    for cell in done.report["cells"]:
        timing = cell["timing"]
        if timing is not None:
            assert timing["baseline"] in ids - {cell["id"]} or timing["outcome"] == "baseline"
            assert timing["low"] <= timing["ratio"] <= timing["high"]
            assert len(timing["samples"]) >= timing["pairs"] > 0
