"""Known causes of failed builds."""

from __future__ import annotations

import re
from typing import Any


def ran_out_of_memory(log: str) -> bool:
    """Say whether a compiler was killed for want of memory."""
    return bool(re.search(r"fatal error: Killed signal terminated program|Killed\s*$|exit code 137", log, re.MULTILINE))


def diagnose(log: str) -> list[Any]:
    """Return the known causes in a log."""
    return []
