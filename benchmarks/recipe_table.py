"""Prints a report as Markdown with a row for each model and recipe, and a column for each runtime.

python recipe_table.py ../ortforge-report/report.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ortforge.api.wording import parity_text, size, speed

SEVERAL = "; "


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("report", type=Path)
    report = json.loads(asked.parse_args().report.read_text(encoding="utf-8"))
    targets = list(dict.fromkeys(cell["target"] for cell in report["cells"]))
    print(f"| Model | Recipe | Size | {' | '.join(targets)} |")
    print(f"|{' --- |' * (len(targets) + 3)}")
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in report["cells"]:
        rows.setdefault((cell["model"], cell["recipe"]), []).append(cell)
    for (model, recipe), cells in sorted(rows.items(), key=lambda row: row[0][0]):
        sizes = list(dict.fromkeys(size(cell["bytes"]) for cell in cells if cell.get("bytes")))
        columns = (said([cell for cell in cells if cell["target"] == target]) for target in targets)
        print(f"| {model} | {recipe} | {SEVERAL.join(sizes)} | {' | '.join(columns)} |")


def said(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return status, parity and speed of a recipe on one runtime; of each of its EPs where there are several."""
    return SEVERAL.join(
        ", ".join(
            part
            for part in (
                cell["ep"] if len(cells) > 1 else "",
                f"**{cell['status']}**",
                parity_text(cell.get("parity")),
                speed(cell.get("timing")),
            )
            if part
        )
        for cell in cells
    )


if __name__ == "__main__":
    main()
