"""ortforge doctor: whether this machine has what ortforge needs, and what would spoil its numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ortforge.cli.shared import Json, StoreFolder, echo_json, the_plugins
from ortforge.errors import ExitCode, OrtforgeError

if TYPE_CHECKING:
    from ortforge.api import Check, CheckContext, CheckOutcome
    from ortforge.plugin_manager import PluginRow, Plugins

_STATUSES: Final = ("ok", "warning", "problem")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    :param fixed: whether ``--fix`` changed something for the better.
    """

    name: str
    status: str
    message: str
    todo: str
    fixed: bool = False


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor", epilog="Example: ortforge doctor --fix")(doctor)


def doctor(
    ctx: typer.Context,
    store: StoreFolder = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
    as_json: Json = False,
) -> None:
    """Check this machine: uv, package index, disk, interpreters, GPU driver, store, plugins, other work on the CPUs.

    Exit code 0: nothing is in the way (warnings may be); 4: a problem.
    """
    plugins = the_plugins(ctx)
    context = _context(store)
    found = []
    with _alone(context.store) if fix else nullcontext():
        for finding in examine(plugins, context, fix=fix):
            found.append(finding)
            if not as_json:
                _show(finding)
    problem = any(finding.status == "problem" for finding in found)
    code = ExitCode.ENVIRONMENT if problem else ExitCode.PASS
    if as_json:
        echo_json({"schema": 1, "exit_code": int(code), "checks": [asdict(finding) for finding in found]})
    raise typer.Exit(code)


def _alone(store: Path) -> AbstractContextManager[None]:
    """Keep runs out of a store while it is mended; entering it raises ``StoreError`` when a run is using it."""
    from ortforge.errors import StoreError
    from ortforge.store import open_store
    from ortforge.store.store import RUN_LOCK

    try:
        return open_store(store).lock(RUN_LOCK, wait=False) if store.is_dir() else nullcontext()
    except StoreError:  # it cannot be opened: a check says so
        return nullcontext()


def examine(plugins: Plugins, context: CheckContext, *, fix: bool) -> Iterator[Finding]:
    """Run every check that plugins give, one after the other, and say what is wrong with plugins themselves."""
    for check in plugins.checks.values():
        yield _checked(check, context, fix=fix)
    yield _plugins(plugins.rows())


def _checked(check: Check, context: CheckContext, *, fix: bool) -> Finding:
    outcome = _ask(check, context)
    if not fix or check.fix is None or outcome.status == "ok":
        return Finding(check.name, outcome.status, outcome.message, outcome.todo)
    mend: Callable[[CheckContext], Any] = check.fix
    try:
        mend(context)
    except Exception as error:
        return Finding(
            check.name, outcome.status, f"{outcome.message} It could not be mended: {_said(error)}", outcome.todo
        )
    after = _ask(check, context)
    better = _STATUSES.index(after.status) < _STATUSES.index(outcome.status)
    message = f"{after.message} Mended; before: {outcome.message}" if better else after.message
    return Finding(check.name, after.status, message, after.todo, better)


def _ask(check: Check, context: CheckContext) -> CheckOutcome:
    """Run one check; one that fails itself, or answers with something else, is a problem, and the others go on."""
    from ortforge.api import CheckOutcome

    try:
        outcome = check.run(context)
    except Exception as error:
        return CheckOutcome("problem", f"The check itself failed: {_said(error)}", "Report it to its plugin's authors.")
    if not isinstance(outcome, CheckOutcome) or outcome.status not in _STATUSES:
        return CheckOutcome(
            "problem", f"The check gave no answer that is known: {outcome!r}", "Report it to its plugin's authors."
        )
    return outcome


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, OrtforgeError) else f"{type(error).__name__}: {error}"


def _plugins(rows: tuple[PluginRow, ...]) -> Finding:
    broken = [row for row in rows if row.status in ("failed", "partial", "unknown")]
    if not broken:
        return Finding("plugins", "ok", f"{sum(row.status == 'loaded' for row in rows)} plugins are loaded.", "")
    named = "; ".join(f"{row.name}: {row.error}" for row in broken)
    return Finding("plugins", "warning", named, "'ortforge plugins list' shows all of them.")


def _context(store: Path | None) -> CheckContext:
    from ortforge.api import CheckContext
    from ortforge.errors import ProvisionError
    from ortforge.runtime.device import probe
    from ortforge.runtime.uv import find_uv, surroundings
    from ortforge.store.store import default_root

    try:
        uv = find_uv()
    except ProvisionError:
        uv = None
    folder = (store if store is not None else default_root()).expanduser().absolute()
    return CheckContext(store=folder, device=probe(), uv=uv, uv_environ=surroundings(os.environ))


def _show(finding: Finding) -> None:
    """Print a finding as soon as it is there: the index may take seconds to answer."""
    from rich.table import Table

    from ortforge.report.screen import Screen

    screen = Screen()
    row = Table.grid(padding=(0, 1))
    for width in (7, 12, None):
        row.add_column(width=width, overflow="fold")
    style = {"ok": "green", "warning": "yellow"}.get(finding.status, "bold red")
    row.add_row(screen.text(finding.status, style), screen.text(finding.name, "bold"), screen.text(finding.message))
    if finding.todo:
        row.add_row("", "", screen.text(finding.todo))
    screen.table(row)
