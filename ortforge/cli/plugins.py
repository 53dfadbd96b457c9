"""ortforge plugins: what is loaded, from where, and what is wrong with the rest."""

from __future__ import annotations

from dataclasses import asdict

import typer

from ortforge.cli.shared import Json, echo_json, the_plugins


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(no_args_is_help=True, help="Show plugins.")
    group.command("list", epilog="Example: ortforge plugins list --json")(plugins_list)
    app.add_typer(group, name="plugins")


def plugins_list(ctx: typer.Context, as_json: Json = False) -> None:
    """List plugins with their distribution, version, hooks and status; a broken one is a row with its error."""
    rows = the_plugins(ctx).rows()
    if as_json:
        echo_json([asdict(row) for row in rows])
        return
    from ortforge.report.plugins import show_plugins

    show_plugins(rows)
