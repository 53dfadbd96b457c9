"""Puts the page together: what ships per model first, then what is not as expected, details, all cells and sources."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from ortforge.api.wording import (
    STATUSES,
    best_text,
    build_lines,
    combination_text,
    device_text,
    duration,
    exit_code_text,
    latency,
    noise_text,
    parity_text,
    size,
    speed,
)

from ._assets import SCRIPT, STYLE
from ._cells import matrix, status_of
from ._markup import Markup, join, tag
from ._pareto import front, plot, points_of, runtime_of, title_of

__all__ = ["page"]

Report = Mapping[str, Any]


def page(report: Report) -> str:
    """Return the whole document."""
    anchors = {cell["id"]: f"cell-{number}" for number, cell in enumerate(report["cells"], 1)}
    # The policy lets nothing in from outside and no script run but this page's own, whatever a report holds.
    digest = b64encode(sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"ortforge: {_headline(report)}"),
        tag("style", Markup(STYLE)),
    )
    answers = (_answers(report, anchors), _not_as_expected(report, anchors))
    main = tag(
        "main", *answers, _models(report, anchors), _all_cells(report, anchors), _runtimes(report), _about(report)
    )
    body = tag("body", _header(report), main, _footer(report), tag("script", Markup(SCRIPT)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


# The verdict


def _headline(report: Report) -> str:
    cells = report["cells"]
    passing = sum(cell["status"] == "pass" for cell in cells)
    if not cells:
        return "no cells"
    if report.get("expectations"):
        return exit_code_text(report).partition(": ")[2]
    return f"all {len(cells)} cells pass" if passing == len(cells) else f"{passing} of {len(cells)} cells pass"


def _header(report: Report) -> Markup:
    run, tally = report.get("run") or {}, report.get("summary") or {}
    known = [status for status in STATUSES if tally.get(status)]
    bar = (tag("span", class_=f"s-{status}", style=f"flex: {tally[status]}") for status in known)
    chips = (
        tag("li", tag("span", f"{tally[status]} {status}", class_=f"chip status s-{status}", data_status=status))
        for status in known
    )
    started = str(run.get("started") or "").replace("T", " ").replace("+00:00", " UTC")
    facts = (run.get("matrix"), started, duration(run.get("seconds")), device_text(report.get("device")))
    headline = _headline(report)
    return tag(
        "header",
        tag("div", "ortforge report", class_="over"),
        tag("h1", headline[:1].upper() + headline[1:]),
        tag("p", _shipping_sentence(report)),
        tag("div", " · ".join(str(fact) for fact in facts if fact), class_="soft"),
        tag("div", *bar, class_="bar", aria_hidden="true"),
        tag("ul", *chips, class_="chips"),
    )


def _shipping_sentence(report: Report) -> str:
    ships: Mapping[str, Sequence[Mapping[str, Any]]] = report.get("ships") or {}
    if not ships:
        return ""
    passing = sum(cell["status"] == "pass" for cell in report["cells"])
    counted = f"{passing} of {len(report['cells'])} cells pass."
    without = [model for model, entries in ships.items() if not any(entry["cell"] for entry in entries)]
    if not without:
        return f"{counted} Every model has a variant to ship on at least one runtime."
    if len(without) == len(ships):
        return f"{counted} No model has a variant to ship."
    shipping = len(ships) - len(without)
    return f"{counted} {shipping} of {len(ships)} models have a variant to ship; none for {', '.join(without)}."


# What ships


def _answers(report: Report, anchors: Mapping[str, str]) -> Markup:
    """Return the first answer: a row for the best combination of each model and device."""
    cells = {cell["id"]: cell for cell in report["cells"]}
    best: Mapping[str, Sequence[Mapping[str, Any]]] = report.get("best") or {}
    if not best:
        return Markup()
    several = len({answer["device"] for answers in best.values() for answer in answers}) > 1
    rows = []
    for model, answers in best.items():
        for answer in answers:
            said = combination_text(answer)
            what = tag("a", said, href=f"#{anchors[answer['cell']]}") if answer["cell"] in anchors else said
            rows.append(
                tag(
                    "tr",
                    tag("td", model, class_="name"),
                    tag("td", answer["device"]) if several else "",
                    tag("td", what, class_="what" if answer["cell"] else "what nothing"),
                    tag("td", best_text(answer, cells.get(answer["cell"]))),
                    tag("td", answer["why"], class_="soft"),
                )
            )
    titles = ("Model", *(("Device",) if several else ()), "Ships", "Speed and size", "Why")
    head = tag("tr", *(tag("th", title, scope="col") for title in titles))
    table = tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="answers"), class_="wide")
    return tag("section", tag("h2", "What ships"), table)


def _not_as_expected(report: Report, anchors: Mapping[str, str]) -> Markup:
    found = report.get("expectations") or {}
    problems: Sequence[Mapping[str, str]] = found.get("problems") or ()
    parts = []
    if problems:
        items = (
            tag("li", tag("a", problem["cell"], href=f"#{anchors[problem['cell']]}"), tag("div", problem["what"]))
            for problem in problems
        )
        parts = [tag("h2", f"Not as expected ({len(problems)})"), tag("ul", *items, class_="problems")]
    for title, names in (("Better than expected", "better"), ("Another status than expected", "changed")):
        if found.get(names):
            links = [tag("li", tag("a", name, href=f"#{anchors[name]}")) for name in found[names]]
            parts += [tag("h3", f"{title} ({len(links)})"), tag("ul", *links)]
    return tag("section", *parts) if parts else Markup()


def _models(report: Report, anchors: Mapping[str, str]) -> Markup:
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for cell in report["cells"]:
        by_model.setdefault(cell["model"], []).append(cell)
    if not by_model:
        return Markup()
    cards = (_model(model, cells, report, anchors, number) for number, (model, cells) in enumerate(by_model.items(), 1))
    said = "The fastest variant that passes, or else the unoptimized model when it is correct."
    return tag("section", tag("h2", "What ships per runtime and EP"), tag("p", said, class_="soft"), *cards)


def _model(
    model: str, cells: Sequence[Mapping[str, Any]], report: Report, anchors: Mapping[str, str], number: int
) -> Markup:
    facts = (report.get("models") or {}).get(model) or {}
    opsets = facts.get("opsets") or {}
    known = (
        size(facts.get("bytes")),
        facts.get("licence"),
        ", ".join(f"{domain or 'opset'} {version}" for domain, version in opsets.items()),
    )
    entries = (report.get("ships") or {}).get(model) or ()
    by_id = {cell["id"]: cell for cell in cells}
    ships = (_ship(entry, by_id, report, anchors) for entry in entries)
    words = tag(
        "div",
        tag("h3", model),
        tag("div", ", ".join(str(fact) for fact in known if fact), class_="soft"),
        tag("div", *ships, class_="ships"),
    )
    measure, points = points_of(cells, list(dict.fromkeys(runtime_of(cell) for cell in report["cells"])))
    if len(points) < 2:
        return tag("article", words, class_="model")
    return tag("article", words, _figure(model, measure, points, number), class_="model plotted")


def _ship(
    entry: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]], report: Report, anchors: Mapping[str, str]
) -> Markup:
    version = ((report.get("runtimes") or {}).get(entry["target"]) or {}).get("ort_version")
    where = tag(
        "div",
        tag("span", f"{entry['target']} : {entry['ep']}"),
        tag("span", f"ONNX Runtime {version}", class_="soft") if version else "",
        class_="where",
    )
    cell = cells.get(entry["cell"])
    if cell is None:
        return tag("div", where, tag("div", _nothing(entry)), class_="ship")
    timing, overall = cell.get("timing") or {}, cell.get("overall") or {}
    numbers = [_speed(cell, cells)]
    numbers += [latency(timing.get("p50_s")), size(cell.get("bytes")), parity_text(cell.get("parity"))]
    if overall.get("ratio") is not None and overall.get("ratio") != timing.get("ratio"):
        numbers.insert(1, f"{speed(overall)} vs. the matrix's baseline")
    link = tag(
        "a", "the unoptimized model" if cell["recipe"] == "none" else cell["recipe"], href=f"#{anchors[cell['id']]}"
    )
    said = tag(
        "div",
        tag("div", link, class_="what"),
        tag("div", *(tag("span", number) for number in numbers if number), class_="numbers"),
        tag("div", entry["why"], class_="soft"),
        _marks(cell),
    )
    return tag("div", where, said, class_="ship")


def _speed(cell: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Say the speed and against what: the same words mean another thing for a recipe and for the plain model."""
    timing = cell.get("timing") or {}
    said, base = speed(timing), cells.get(timing.get("baseline") or "")
    if not said or timing.get("outcome") == "baseline" or base is None:
        return "the matrix's baseline" if said == "baseline" else said
    here = all(base[part] == cell[part] for part in ("target", "ep", "device"))
    return f"{said} vs. {'unoptimized' if here else base['target'] + ':' + base['ep']}"


def _nothing(entry: Mapping[str, Any]) -> Markup:
    return join(tag("div", "nothing", class_="what nothing"), tag("div", entry["why"], class_="soft"))


def _marks(cell: Mapping[str, Any]) -> Markup:
    """Return the marks of a cell alone, without its status: what ships is correct by definition."""
    whole = status_of(cell)
    start = whole.find("<div>")
    return Markup(whole[start:]) if start >= 0 else Markup()


def _figure(model: str, measure: str, points: Sequence[Any], number: int) -> Markup:
    best = {point.number for point in front(points)}
    items = []
    for point in points:
        dot = tag("i", class_=f"colour-{point.colour}")
        star = " *" if point.number in best else ""
        wrong = "" if point.correct else f" ({point.cell['status']})"
        items.append(
            tag("li", tag("b", point.number), dot, point.label, star, wrong, title=title_of(point, bool(star)))
        )
    said = (
        "Area shows the model's size. An outlined number with * is on the Pareto front: no other correct variant is as "
        "fast, as accurate and as small, and better in one. Dashed: not correct. Latencies stand as measured, each "
        "in its own turn; verdicts rest on the paired ratios."
    )
    return tag(
        "figure", plot(model, measure, points, number), tag("ol", *items, class_="points"), tag("figcaption", said)
    )


# All cells, and where they come from


def _all_cells(report: Report, anchors: Mapping[str, str]) -> Markup:
    said = "Speed is the baseline's time over the cell's own, with its 95% interval; above 1 is faster."
    if noise := noise_text(report):
        said += f" The comparisons moved by {noise} on their own: smaller differences cannot be told."
    return tag("section", tag("h2", "All cells"), tag("p", said, class_="soft"), matrix(report, anchors), id="all")


def _runtimes(report: Report) -> Markup:
    runtimes: Report = report.get("runtimes") or {}
    if not runtimes:
        return Markup()
    parts = []
    for number, (name, runtime) in enumerate(runtimes.items()):
        rows = (
            tag(
                "tr",
                *(
                    tag("td", package.get(key), class_="hash" if key == "sha256" else None)
                    for key in ("name", "version", "sha256")
                ),
            )
            for package in runtime.get("packages") or ()
        )
        place = f", in a container of {runtime['container']}" if runtime.get("container") else ""
        summary = f"{name}: ONNX Runtime {runtime.get('ort_version')}, Python {runtime.get('python')}{place}"
        head = tag("tr", *(tag("th", title, scope="col") for title in ("Package", "Version", "sha256")))
        known = tag(
            "p", "Execution providers: ", ", ".join(runtime.get("providers") or ()) or "not known", class_="soft"
        )
        identity = tag("p", "Identity: ", tag("span", runtime.get("hash"), class_="hash"), class_="soft")
        table = tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="wide")
        # The id is inside: browsers open a closed element when a link leads into it.
        inside = tag("div", known, identity, table, id=f"runtime-{number}")
        parts.append(tag("details", tag("summary", summary), inside))
    built = [tag("li", line) for line in build_lines(report)]
    listed = (tag("p", "Built for this run:", class_="soft"), tag("ul", *built)) if built else ()
    return tag("section", tag("h2", "Runtimes"), *listed, *parts)


def _about(report: Report) -> Markup:
    run = report.get("run") or {}
    steps = run.get("steps") or {}
    facts = {
        "run": run.get("id"),
        "command": "ortforge " + " ".join(map(str, run.get("argv") or ())),
        "host": run.get("host"),
        "device": device_text(report.get("device")),
        "device identity": (report.get("device") or {}).get("identity"),
        "matrix digest": run.get("matrix_digest"),
        "steps": ", ".join(f"{count} {name}" for name, count in steps.items()),
        "results": run.get("store"),
        "exit code": str(report.get("exit_code")),
    }
    listed = (join(tag("dt", name), tag("dd", value)) for name, value in facts.items() if value)
    models = [part for name, model in (report.get("models") or {}).items() for part in _model_facts(name, model)]
    return tag("section", tag("h2", "This run"), tag("dl", *listed, *models, class_="facts"))


def _model_facts(name: str, model: Mapping[str, Any]) -> Iterator[Markup]:
    facts = [str(model[key]) for key in ("reference", "digest") if model.get(key)]
    yield join(tag("dt", f"model {name}"), tag("dd", ", ".join(facts), class_="hash"))


def _footer(report: Report) -> Markup:
    return tag("footer", f"Written by ortforge {report.get('ortforge')}. The same facts are in the JSON report.")
