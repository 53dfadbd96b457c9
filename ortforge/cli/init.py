"""ortforge init: a first matrix.toml for the models at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ortforge.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init", epilog="Example: ortforge init models/*.onnx")(init)


def init(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="The models to begin with.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "matrix.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a first matrix.toml for the given models, ready for 'ortforge run'."""
    from ortforge.matrix.initial import initial
    from ortforge.matrix.schema import SCHEMA_FILE, shipped
    from ortforge.store.atomic import write_bytes

    if out.exists() and not force:
        raise UsageError(f"{out} exists already.", todo="Give another name with --output, or --force to overwrite it.")
    text = initial(models, out)
    write_bytes(out, text.encode("utf-8"))
    write_bytes(out.parent / SCHEMA_FILE, shipped().read_bytes())
    typer.echo(f"wrote {out} and {SCHEMA_FILE}, its schema for editors")
    typer.echo("Now give it real data (the comments in it say how) and call 'ortforge run'.")
