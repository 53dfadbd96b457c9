"""Is uv there? It makes the environments that runtimes live in."""

from __future__ import annotations

from collections.abc import Iterable

from ortforge.api import Check, CheckContext, CheckOutcome

from ._uv import ask

_OLDEST = (0, 9)
"""What ortforge itself requires (pyproject.toml); an older one may still be found on PATH."""


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="uv", summary="uv is there, and new enough", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """Ask uv for its version."""
    todo = "Install it beside ortforge: pip install --upgrade uv"
    if context.uv is None:
        return CheckOutcome("problem", "uv was not found, so no environment can be made.", todo)
    try:
        code, said = ask(context, "--version")
    except (OSError, TimeoutError) as error:
        return CheckOutcome("problem", f"{context.uv} cannot be run: {error}.", todo)
    if code:
        return CheckOutcome("problem", f"{context.uv} does not work: {said}", todo)
    version = said.split()[1] if len(said.split()) > 1 else said
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if parts < _OLDEST:
        return CheckOutcome("warning", f"uv {version} ({context.uv}) is older than 0.9.", todo)
    return CheckOutcome("ok", f"uv {version} ({context.uv})")
