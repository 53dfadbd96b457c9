"""Which Pythons can runtimes have? Published wheels are for some of them only, and old ones for old Pythons."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ortforge.api import Check, CheckContext, CheckOutcome

from ._uv import ask

_WANTED = ((3, 11), (3, 12), (3, 13))


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="interpreters", summary="Python 3.11 to 3.13 are there for runtimes", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """List the CPythons that uv finds. A missing one is no fault: uv downloads it when a target needs it."""
    if context.uv is None:
        return CheckOutcome("warning", "Not asked: uv is not there.")
    arguments = ("python", "list", "--only-installed", "--no-python-downloads", "--output-format", "json")
    try:
        code, said = ask(context, *arguments)
        listed = [] if code else json.loads(said or "[]")
    except (OSError, TimeoutError, ValueError) as error:
        code, said = 1, str(error)
    if code:
        return CheckOutcome("problem", f"uv cannot list interpreters: {said}", "Call 'uv python list' to see more.")
    found: dict[tuple[int, int], str] = {}
    for entry in listed:
        parts = entry["version_parts"]
        if entry["implementation"] == "cpython" and entry.get("variant", "default") == "default":
            found.setdefault((parts["major"], parts["minor"]), entry["version"])
    there = ", ".join(found[version] for version in _WANTED if version in found) or "none of Python 3.11 to 3.13"
    missing = [f"{major}.{minor}" for major, minor in _WANTED if (major, minor) not in found]
    if not missing:
        return CheckOutcome("ok", f"uv finds Python {there}.")
    absent = f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} not here"
    if context.uv_environ.get("UV_PYTHON_DOWNLOADS") in ("never", "manual"):
        return CheckOutcome(
            "warning",
            f"uv finds Python {there}; {absent}, and UV_PYTHON_DOWNLOADS keeps uv from downloading.",
            f"Install them where a target needs them: uv python install {' '.join(missing)}",
        )
    return CheckOutcome("ok", f"uv finds Python {there}; {absent}: downloaded when a target needs it.")
