"""ortforge build: ONNX Runtime from source, in Docker, into wheels that are audited and proven."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortforge.cli.run import turn
from ortforge.cli.shared import Json, MatrixFile, StoreFolder, echo_json, load_matrix, open_until_end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ortforge.engine.building import Built


class Until(StrEnum):
    """Where a build may end before there is a wheel."""

    CONFIGURE = "configure"
    COMPILE = "compile"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("build", epilog="Example: ortforge build dnnl --out dist")(build)


def build(
    ctx: typer.Context,
    targets: Annotated[
        list[str] | None, typer.Argument(help="Source targets; all of the file when none is named.")
    ] = None,
    matrix: MatrixFile = Path("matrix.toml"),
    store: StoreFolder = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where wheels go: DIR/TARGET/.")] = Path("dist"),
    until: Annotated[
        Until | None, typer.Option("--until", help="Stop after this, with no wheel, and show what is in force.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every step again; the build tree still goes on.")] = False,
    as_json: Json = False,
) -> None:
    """Build source targets: wheel, SBOM, provenance, log and an index folder for each.

    What is built is kept under a key of everything that can change it, so a second call takes seconds; a build that was
    killed goes on from its object files. Exit code 3 when a build fails, 4 when the machine lacks something.

    With --until, a target can be tried whose EP this machine cannot run: the command lines, and the definitions and
    options that the compilers are told, are shown instead.
    """
    from ortforge.engine.building import build_targets, export
    from ortforge.engine.local import LocalExecutor
    from ortforge.engine.walk import WalkOptions
    from ortforge.plan.planner import make_build_plan
    from ortforge.report.progress import make_progress
    from ortforge.runtime import device, workerfiles

    loaded, plugins = load_matrix(ctx, matrix)
    chosen = _chosen(targets or [], loaded)
    here = device.probe()
    plan = make_build_plan(loaded, plugins, here, chosen, worker=workerfiles.digest(), until=until or "")
    opened = open_until_end(ctx, store)
    with turn(opened, fresh=fresh), make_progress(quiet=as_json) as listener:
        found = build_targets(
            plan,
            store=opened,
            executor=LocalExecutor(here.cores),
            listener=listener,
            options=WalkOptions(fresh=fresh),
        )
    places = {one.target: export(one, opened, out) for one in found if one.status == "ok" and not until}
    if as_json:
        echo_json({"schema": 1, "targets": [_as_json(one, places.get(one.target), until) for one in found]})
    else:
        for one in found:
            _show(one, places.get(one.target))
    worst = [one.exit_code for one in found if one.status != "ok"]
    if worst:
        raise typer.Exit(max(worst))


def _chosen(names: list[str], matrix: Any) -> list[str]:
    """Return the source targets that are meant.

    :raises UsageError: a name is not a source target, or there is none.
    """
    from ortforge.errors import UsageError, nearest

    sources = [name for name, target in matrix.targets.items() if target.from_ == "source"]
    for name in names:
        if name not in sources:
            kind = (
                f"it comes from a {matrix.targets[name].from_}" if name in matrix.targets else "there is no such target"
            )
            close = nearest(name, sources)
            raise UsageError(
                f"target {name!r} cannot be built: {kind}.",
                meant=f"Perhaps you meant {close!r}." if close else "",
                todo=f"Source targets of this file: {', '.join(sources) or 'none'}.",
            )
    if not sources:
        raise UsageError(
            "no target of this file is built from source.",
            todo='A target with from = "source" is; docs/building.md shows one.',
        )
    return names or sources


def _as_json(one: Built, place: Path | None, until: Until | None) -> dict[str, Any]:
    found = {
        "target": one.target,
        "status": one.status,
        "reason": one.reason,
        "folder": str(place) if place else None,
        "package": one.facts,
        "proof": one.proof,
        "log": one.log,
        "steps": list(one.steps),
    }
    return found if until is None else {**found, "package": None, "until": until.value, until.value: one.facts}


def _show(one: Built, place: Path | None) -> None:
    from ortforge.api.wording import duration

    if one.status != "ok":
        typer.echo(f"{one.target}: {one.status}: {one.reason}")
        if one.log:
            typer.echo(f"  log: {one.log}")
        return
    facts = one.facts or {}
    took = sum(step["seconds"] for step in one.steps if not step["cached"])
    known = " (known)" if all(step["cached"] for step in one.steps) else f", {duration(took)}"
    if place is None:
        _show_in_force(one.target, facts, known)
        return
    typer.echo(f"{one.target}: {place / facts['artifact']}{known}")
    typer.echo(f"  {facts['bytes']:,} bytes, sha256 {facts['sha256']}")
    for finding in facts["findings"]:
        if finding["severity"] != "note":
            typer.echo(f"  {finding['severity']}: {finding['what']}")
    for line in (one.proof or {}).get("lines", ()):
        typer.echo(f"  {line}")
    if facts.get("halved"):
        typer.echo(
            f"  memory ran short: the last files were compiled {facts['jobs']} at a time; more `memory` is faster"
        )


def _show_in_force(target: str, facts: Mapping[str, Any], known: str) -> None:
    """Show what the compilers are told: first what holds for all of ORT's files, then what for some."""
    import shlex

    told = facts["in_force"]
    steps = facts.get("steps")
    compiled = f", {steps[0]} steps with {facts['jobs']} at a time" if steps else ""
    typer.echo(f"{target}: {'configured' if steps is None else 'compiled'}{compiled}{known}")
    for name in ("defines", "options"):
        everywhere = [word for word, files in told[name].items() if files == told["files"]]
        some = [f"{word} ({files})" for word, files in told[name].items() if files != told["files"]]
        typer.echo(f"  {name} for all {told['files']} files: {' '.join(everywhere)}")
        typer.echo(f"  {name} for some, with their number: {' '.join(some)}")
    for name, argv in facts["argv"].items():
        typer.echo(f"  {name}: {shlex.join(argv)}")
