"""``report.json``: the whole report for machines, one cell a line, so that two files can be compared line by line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ortforge.api import Report

from ._file import write_whole


def ortforge_reports() -> Iterable[Report]:
    """Give the writer."""
    return [Report("json", "the whole report for machines: every cell, every sample", ".json", write)]


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write strict JSON: NaN and infinities, which JSON cannot hold, become ``null``."""
    lines = [f"{_dump(name)}: {_dump(value)}" for name, value in report.items() if name != "cells"]
    cells = ",\n  ".join(_dump(cell) for cell in report["cells"])
    lines.append(f'"cells": [\n  {cells}\n]' if cells else '"cells": []')
    write_whole(path, "{" + ",\n".join(lines) + "}\n")


def _dump(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
