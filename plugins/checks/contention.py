"""Are the CPUs free? Times measured beside other work are noisy, and comparisons of them stay undecided."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ortforge.api import Check, CheckContext, CheckOutcome

PRESSURE = Path("/proc/pressure/cpu")
"""``some avg10=97.96 …``: per cent of the last 10 s in which some task waited for a CPU (Linux 4.20 and newer)."""

_BUSY = 10.0


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="contention", summary="nothing else keeps the CPUs busy now", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """Read the kernel's own account of who waited."""
    try:
        found = re.search(r"^some avg10=([\d.]+)", PRESSURE.read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        return CheckOutcome("ok", "This system does not tell whether tasks wait for a CPU.")
    waited = float(found[1])
    message = f"For {waited:.0f} % of the last 10 s some task waited for one of the {context.device.cores} CPUs."
    if waited < _BUSY:
        return CheckOutcome("ok", message)
    return CheckOutcome(
        "warning", message, "Stop other work while times are measured; 'ortforge run --retime' measures them again."
    )
