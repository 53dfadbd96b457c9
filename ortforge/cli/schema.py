"""ortforge schema: the JSON schema of matrix.toml, for editors."""

from __future__ import annotations

import typer

from ortforge.cli.shared import echo_json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("schema", epilog="Example: ortforge schema > matrix.schema.json")(schema)


def schema() -> None:
    """Print the JSON schema of matrix.toml."""
    from ortforge.matrix.schema import matrix_schema

    echo_json(matrix_schema())
