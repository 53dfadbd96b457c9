"""``report.xml``: JUnit XML, for the test tab of a CI system: a suite per model, a case per cell.

Written to the schema that Jenkins and GitLab read, which is the strictest of the common ones: a suite holds properties
and then cases; a case holds at most one of skipped, error and failure, and then system-out. What a user can act on in
the model (slower, inaccurate, misplaced) is a failure; what broke is an error; what cannot run here is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from ortforge.api import Report
from ortforge.api.wording import device_text, latency, marks, parity_text, placement_text, printable, speed

from ._file import write_whole

FAILURES: Final = frozenset({"slower", "inaccurate", "misplaced"})
SKIPPED: Final = frozenset({"unsupported", "incompatible"})

# XML 1.0, section 2.2: everything but these may not stand in a document, not even escaped.
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def ortforge_reports() -> Iterable[Report]:
    """Give the writer."""
    return [Report("junit", "JUnit XML for the test view of CI systems", ".xml", write)]


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JUnit XML."""
    root = ElementTree.Element("testsuites", name="ortforge")
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for cell in report["cells"]:
        by_model.setdefault(cell["model"], []).append(cell)
    suites = [_suite(root, model, cells, report) for model, cells in by_model.items()]
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("time", f"{(report.get('run') or {}).get('seconds') or 0.0:.3f}")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_whole(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _suite(
    root: ElementTree.Element, model: str, cells: Sequence[Mapping[str, Any]], report: Mapping[str, Any]
) -> ElementTree.Element:
    run = report.get("run") or {}
    statuses = [cell["status"] for cell in cells]
    failures, skipped = (sum(status in kind for status in statuses) for kind in (FAILURES, SKIPPED))
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_legal(model),
        tests=str(len(cells)),
        failures=str(failures),
        errors=str(len(cells) - failures - skipped - statuses.count("pass")),
        skipped=str(skipped),
        time=f"{sum(map(_seconds, cells)):.3f}",
        # The schema knows local times without a zone only.
        timestamp=_legal(str(run.get("started") or ""))[:19],
        hostname=_legal(str(run.get("host") or "localhost")),
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "ortforge": report.get("ortforge"),
        "run": run.get("id"),
        "matrix": run.get("matrix"),
        "device": device_text(report.get("device")),
        "model digest": ((report.get("models") or {}).get(model) or {}).get("digest"),
    }
    for name, value in facts.items():
        if value:
            ElementTree.SubElement(properties, "property", name=name, value=_legal(str(value)))
    for cell in cells:
        _case(suite, cell)
    return suite


def _case(suite: ElementTree.Element, cell: Mapping[str, Any]) -> None:
    # Readers group by class name, which they split at dots: versions in target names would make false packages.
    place = f"{cell['target']}:{cell['ep']}".replace(".", "_")
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_legal(f"{cell['model'].replace('.', '_')}.{place}"),
        name=_legal(cell["id"]),
        time=f"{_seconds(cell):.3f}",
    )
    status, reasons = cell["status"], [str(reason) for reason in cell.get("reasons", ())]
    if status != "pass":
        kind = "skipped" if status in SKIPPED else "failure" if status in FAILURES else "error"
        outcome = ElementTree.SubElement(case, kind, message=_legal(f"{status}: {reasons[0]}" if reasons else status))
        if kind != "skipped":
            outcome.set("type", status)
        outcome.text = _legal("\n".join(reasons))
    ElementTree.SubElement(case, "system-out").text = _legal(_said(cell))


def _seconds(cell: Mapping[str, Any]) -> float:
    """Return the time that the cell's model itself took: load, first run and all timed runs, in seconds."""
    samples = (cell.get("timing") or {}).get("samples") or ()
    return float((cell.get("load_s") or 0.0) + (cell.get("first_run_s") or 0.0) + sum(samples) / 1e9)


def _said(cell: Mapping[str, Any]) -> str:
    facts = {
        "status": ", ".join((cell["status"], *marks(cell))),
        "parity": parity_text(cell.get("parity")),
        "speed": speed(cell.get("timing")),
        "p50": latency((cell.get("timing") or {}).get("p50_s")),
        "placement": placement_text(cell.get("placement")),
        "to repeat": cell.get("command"),
    }
    lines = [f"{name}: {value}" for name, value in facts.items() if value]
    lines += [f"note: {note}" for note in cell.get("notes", ())]
    return "\n".join(lines) + (f"\n\nlog:\n{cell['log']}" if cell.get("log") else "") + "\n"


def _legal(text: str) -> str:
    return _ILLEGAL.sub("", printable(text))
