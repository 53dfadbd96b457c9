"""The final table on a terminal or in a pipe: every cell's verdict with its numbers, and why what is not pass is not.

Columns are dropped, least needed first, until the table fits the terminal; names are never cut. In a pipe nothing is
dropped and lines are as long as they must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ortforge.api.wording import (
    cosine,
    device_text,
    duration,
    latency,
    marks,
    percent,
    placement_text,
    printable,
    size,
    speed,
    summary_text,
    task_drop,
)
from ortforge.report.cell import show_cell

__all__ = ["STYLES", "report_table", "safe", "show", "show_cell", "show_plugins"]
