"""Known causes of failed builds, installations, imports and runs: told from a log, with what helps."""

from __future__ import annotations

import functools
from typing import BinaryIO

from ortforge.build.diagnose.compiling import COMPILING, OUT_OF_MEMORY
from ortforge.build.diagnose.configuring import CONFIGURING
from ortforge.build.diagnose.importing import IMPORTING
from ortforge.build.diagnose.installing import INSTALLING
from ortforge.build.diagnose.known import Known
from ortforge.build.diagnose.matcher import Cause, Diagnosis, Matcher
from ortforge.build.diagnose.packaging import PACKAGING
from ortforge.build.diagnose.running import RUNNING

__all__ = ["KNOWN", "Cause", "Diagnosis", "Known", "diagnose", "examine", "ran_out_of_memory"]

KNOWN = (*CONFIGURING, *COMPILING, *PACKAGING, *INSTALLING, *IMPORTING, *RUNNING)


@functools.cache
def _all() -> Matcher:
    return Matcher(KNOWN)


@functools.cache
def _memory() -> Matcher:
    return Matcher(each for each in KNOWN if each.id == OUT_OF_MEMORY)


def examine(log: str | bytes | BinaryIO) -> Diagnosis:
    """Look through a log, or an open binary file of any size, for all known causes."""
    return _all().examine(log)


def diagnose(log: str | bytes | BinaryIO) -> list[Cause]:
    """Return what made the work fail, the primary cause first; hints and harmless lines are left out."""
    return [cause for cause in examine(log).causes if cause.kind == "error"]


def ran_out_of_memory(log: str) -> bool:
    """Say whether a compiler was killed for want of memory."""
    return bool(_memory().examine(log).causes)
