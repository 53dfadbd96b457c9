"""The section of the HTML report that shows where a cell's tensors leave those of the float model."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from ortforge.plugins.reports._differences import HEIGHT, LEFT, WIDTH, differences, search


def tensor(number: int, sqnr_db: float | None, **more: Any) -> dict[str, Any]:
    known = {"exact": False, "cosine": 0.9, "max_abs": 0.5, "broken": 0}
    return {"tensor": f"t{number}", "node": f"n{number}", "op": "Conv", "sqnr_db": sqnr_db, **known, **more}


def found(*sqnr: float | None, **more: Any) -> dict[str, Any]:
    tensors = [tensor(number, value) for number, value in enumerate(sqnr)]
    base = {"samples": 8, "threshold_db": 16.9, "weights": [], "unmatched": 0, "nodes_to_exclude": []}
    return {**base, "tensors": tensors, "first_diverging": None, "ranking": [], **more}


def parsed(section: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{section}</div>")


def test_each_tensor_is_a_dot_inside_the_axes() -> None:
    page = parsed(differences(found(95.0, 40.0, -15.0, None)))
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in page.iter("circle")]
    assert len(dots) == 4
    assert all(LEFT < x < WIDTH and 0 < y < HEIGHT for x, y in dots)
    assert dots[0][1] < dots[1][1] < dots[2][1] == dots[3][1], (
        "higher is better; what is off the scale lies on its edge"
    )
    words = [text.text for text in page.iter("text")]
    assert {"SQNR, dB", "≤ 0", "≥ 80", "No. of the tensor, in the order of the graph"} <= set(words)


@pytest.mark.parametrize("place", [0, 50, 99])
def test_the_first_to_diverge_is_named_in_the_plot(place: int) -> None:
    values = [30.0] * place + [10.0] * (100 - place)
    tensors = found(*values)["tensors"]
    tensors[place]["node"] = "/encoder/layer.0/attention/self/query/MatMul_quant"
    section = differences({**found(*values), "tensors": tensors, "first_diverging": tensors[place]})
    (label,) = [text for text in parsed(section).iter("text") if text.get("class") == "named"]
    assert (label.text or "").startswith("first below: …")
    assert (label.text or "").endswith("query/MatMul_quant (Conv)")
    assert label.get("text-anchor") == {0: "start", 50: "middle", 99: "end"}[place]


def test_names_from_a_model_are_text() -> None:
    nasty = tensor(0, 3.0, tensor="<script>alert(1)</script>", node='"><img src=x>')
    section = differences({**found(), "tensors": [nasty], "first_diverging": nasty})
    assert "<script>" not in section and "<img" not in section


def test_a_result_without_tensors_or_trials_is_shown_all_the_same() -> None:
    assert differences({}) == "" and search({}) == ""
    assert "No node diverges" in differences(found())
    untried = differences(found(3.0, unproved="no time was given for it", nodes_to_exclude=["a"]))
    assert "No list of nodes was tried: no time was given for it." in untried and "nobody has tried" in untried


def test_a_search_is_a_table_with_the_fastest_that_holds_first() -> None:
    rows = [
        {"name": "dynamic", "scheme": "dynamic", "holds": True, "kept": 0, "ratio": 1.2, "low": 1.1, "high": 1.3},
        {"name": "static", "scheme": "static", "holds": False, "kept": 0, "ratio": 2.0, "low": 1.9, "high": 2.1},
        {"name": "weights-8", "scheme": "weights-8", "holds": True, "kept": 0, "ratio": 1.5, "low": 1.4, "high": 1.6},
        {"name": "float16", "scheme": "float16", "holds": False, "problem": "it crashed (SIGSEGV)"},
    ]
    page = search({"chosen": "weights-8", "candidates": rows, "seconds": 9.0, "judged_on": 8, "skipped": {"x": "why"}})
    first = [next(row.iter("td")).text for row in parsed(page).iter("tr") if row.find("td") is not None]
    assert first == ["weights-8 (chosen)", "dynamic", "static", "float16"]
    assert "it crashed (SIGSEGV)" in page and "Not tried: x: why" in page
