"""ortforge init: a first matrix.toml for the models at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ortforge.cli.shared import Json, echo_json
from ortforge.errors import StoreError, UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init", epilog="Example: ortforge init models/*.onnx")(init)


def init(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="The models to begin with.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "matrix.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a first matrix.toml for the given models, ready for 'ortforge run'."""
    from ortforge.matrix.initial import initial
    from ortforge.matrix.schema import SCHEMA_FILE, shipped
    from ortforge.store.atomic import write_bytes

    if out.is_dir():
        raise UsageError(f"{out} is a folder.", todo=f"Name the file to write: --output {out / 'matrix.toml'}")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent}.", todo=f"Make it first, or name {out.name} elsewhere.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already.", todo="Give another name with --output, or --force to overwrite it.")
    text = initial(models, out)
    try:
        write_bytes(out, text.encode("utf-8"))
        write_bytes(out.parent / SCHEMA_FILE, shipped().read_bytes())
    except StoreError as error:
        error.todo = "Name another file with --output."
        raise
    if as_json:
        echo_json(
            {"matrix": str(out), "schema": str(out.parent / SCHEMA_FILE), "models": [str(path) for path in models]}
        )
        return
    typer.echo(f"wrote {out} and {SCHEMA_FILE}, its schema for editors")
    typer.echo("Now give it real data (the comments in it say how) and call 'ortforge run'.")
