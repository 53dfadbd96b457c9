"""ortforge vendor: gathers what a build would download, so that it can be done without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ortforge.cli.shared import Json, MatrixFile, StoreFolder, echo_json, load_matrix

if TYPE_CHECKING:
    from ortforge.matrix import Matrix, SourceTarget


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("vendor", epilog="Example: ortforge vendor fast --out vendored; ortforge vendor --check vendored")(
        vendor
    )


def vendor(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Argument(help="A source target; the file's only one when none is named.")
    ] = None,
    matrix: MatrixFile = Path("matrix.toml"),
    store: StoreFolder = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to fill.")] = Path("vendored"),
    check: Annotated[
        Path | None, typer.Option("--check", metavar="DIR", help="Compare a folder with its index, and fetch nothing.")
    ] = None,
    python: Annotated[
        list[str] | None, typer.Option("--python", metavar="X.Y", help="Whose wheels are gathered; may be repeated.")
    ] = None,
    no_python: Annotated[
        bool, typer.Option("--no-python", help="Gather no wheels: the image has what it needs.")
    ] = False,
    mirror: Annotated[
        str, typer.Option("--from", metavar="URL", help="Take https://HOST/PATH from URL/HOST/PATH, a mirror of yours.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Gather the dependencies of a target into a folder that its build takes with dependencies = "vendored".

    Archives of cmake/deps.txt, repositories outside of it and the wheels of ORT's tools come, each held to its digest;
    a second call goes on where the first one ended. With --check and a target, the folder is also compared with what
    the target's source needs. Exit code 4 when something is missing, damaged or cannot be had.
    """
    if check is not None:
        _check(ctx, check, target, matrix, store, as_json=as_json)
        return
    from ortforge.engine.vendoring import gather_target
    from ortforge.errors import UsageError
    from ortforge.runtime import device

    for asked in python or ():
        if not re.fullmatch(r"3\.\d{1,2}", asked):
            raise UsageError(f"--python {asked!r} is no version of Python.", todo="Write e.g. --python 3.13")
    source, version, chosen = _source(ctx, target, matrix, store)
    pythons = [] if no_python else python or [chosen.python or "3.13"]  # Debian trixie's
    done = gather_target(
        chosen, source, version, out, machine=device.probe().machine, pythons=pythons, mirror=mirror, say=_tell
    )
    if as_json:
        facts = {"fetched": done.fetched, "kept": done.kept, "bytes": done.bytes, "left_out": done.left_out}
        echo_json({"schema": 1, "folder": str(out), "version": version, **facts})
        return
    for name, why in done.left_out.items():
        typer.echo(f"left out {name}: {why}")
    typer.echo(f"{out}: ONNX Runtime {version}, {done.bytes:,} bytes; {done.fetched} fetched, {done.kept} were there")
    typer.echo(f'In the target: dependencies = "vendored", vendor = "{out}"')


def _check(
    ctx: typer.Context, folder: Path, target: str | None, matrix: Path, store: Path | None, *, as_json: bool
) -> None:
    from ortforge.build import vendor as vendored
    from ortforge.errors import ExitCode

    found = vendored.check(folder)
    problems = list(found.problems)
    if target is not None:
        source, version, _ = _source(ctx, target, matrix, store)
        deps = source / "deps.txt"
        missing = vendored.lacking(folder, deps.read_text(encoding="utf-8")) if deps.is_file() else []
        problems += [f"{name}, which ONNX Runtime {version} needs, is not there as it needs it." for name in missing]
    if as_json:
        echo_json(
            {"schema": 1, "folder": str(folder), "files": found.files, "bytes": found.bytes, "problems": problems}
        )
    else:
        for problem in problems:
            typer.echo(problem)
        typer.echo(f"{folder}: {found.files} files are whole, {found.bytes:,} bytes; {len(problems)} problems")
    if problems:
        raise typer.Exit(int(ExitCode.ENVIRONMENT))


def _source(
    ctx: typer.Context, name: str | None, matrix_file: Path, store: Path | None
) -> tuple[Path, str, SourceTarget]:
    """Bring the source of the target that is meant; return its object, its version and the target."""
    from ortforge.engine.local import LocalExecutor
    from ortforge.engine.vendoring import bring_source
    from ortforge.store import open_store

    loaded, plugins = load_matrix(ctx, matrix_file)
    target = _chosen(name, loaded)
    source, version = bring_source(
        target, loaded, plugins, store=open_store(store), executor=LocalExecutor(1), say=_tell
    )
    return source, version, target


def _chosen(name: str | None, matrix: Matrix) -> SourceTarget:
    """Return the source target that is meant.

    :raises UsageError: it is none, or none is named and there is not exactly one.
    """
    from ortforge.errors import UsageError, nearest

    sources = {known: target for known, target in matrix.targets.items() if target.from_ == "source"}
    listed = f"Source targets of this file: {', '.join(sources) or 'none'}."
    if name is None and len(sources) == 1:
        return next(iter(sources.values()))
    if name is None:
        raise UsageError("it has to be said whose dependencies are gathered: ortforge vendor TARGET.", todo=listed)
    if name not in sources:
        kind = f"it comes from a {matrix.targets[name].from_}" if name in matrix.targets else "there is no such target"
        close = nearest(name, sources)
        raise UsageError(
            f"target {name!r} is not built from source: {kind}.",
            meant=f"Perhaps you meant {close!r}." if close else "",
            todo=listed,
        )
    return sources[name]


def _tell(text: str) -> None:
    """Show progress apart from the result."""
    typer.echo(text, err=True)
