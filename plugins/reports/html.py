"""``report.html``: the whole run on one page that works offline, and reads without JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ortforge.api import Report


def ortforge_reports() -> Iterable[Report]:
    """Give the writer."""
    return [Report("html", "one page, offline: what ships, Pareto plots, every cell's details", ".html", write)]


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the page."""
    # Plugins are imported whenever ortforge starts; the page's parts only when one is written.
    from ._file import write_whole
    from ._page import page

    write_whole(path, page(report))
