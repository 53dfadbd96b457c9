"""ortforge cache: what the store holds, and making room."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from ortforge.cli.shared import Json, StoreFolder, echo_json, existing_store


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(no_args_is_help=True, help="Show and clean the store.")
    group.command("show", epilog="Example: ortforge cache show")(show)
    group.command("clean", epilog="Example: ortforge cache clean --older-than 30 --dry-run")(clean)
    group.command("builds", epilog="Example: ortforge cache builds --clean")(builds)
    app.add_typer(group, name="cache")


def show(ctx: typer.Context, store: StoreFolder = None, as_json: Json = False) -> None:
    """Show what the store holds: objects and environments by kind, their size and when they were made."""
    from ortforge.store.cache import usage

    opened = existing_store(ctx, store)
    rows = usage(opened)
    if as_json:
        echo_json({"store": str(opened.root), "rows": [asdict(row) for row in rows]})
        return
    typer.echo(str(opened.root))
    typer.echo(f"{'kind':<14}{'objects':>7}  {'size':>13}  last used")
    for row in rows:
        typer.echo(f"{row.kind:<14}{row.objects:>7}  {row.bytes / 1e6:>10.1f} MB  {row.last_used or ''}")


def clean(
    ctx: typer.Context,
    store: StoreFolder = None,
    older_than: Annotated[
        int | None, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what was not used since.")
    ] = None,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="Only this kind; repeatable.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Results and environments too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove objects that no recorded result needs, or what the options ask for."""
    from ortforge.store.cache import clean as cleaning

    age = timedelta(days=older_than) if older_than is not None else None
    freed = cleaning(existing_store(ctx, store), older_than=age, kinds=kinds, everything=everything, dry_run=dry_run)
    if as_json:
        echo_json(
            {"dry_run": dry_run, "bytes": sum(row.bytes for row in freed), "rows": [asdict(row) for row in freed]}
        )
        return
    verb = "would free" if dry_run else "freed"
    for row in freed:
        typer.echo(f"{row.kind:<14}{row.objects:>7}  {row.bytes / 1e6:>10.1f} MB")
    typer.echo(f"{verb} {sum(row.bytes for row in freed) / 1e6:.1f} MB")


def builds(
    clean: Annotated[bool, typer.Option("--clean", help="Remove the build trees: later builds start afresh.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="With --clean: the compiler caches too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what builds keep in the container engine: trees that they go on from, and compiler caches."""
    from ortforge.build.layout import CACHE_LABEL, LABEL
    from ortforge.container import connect

    engine = connect()
    trees, caches = (engine.volumes(label, sizes=True) for label in (LABEL, CACHE_LABEL))
    kinds = {**{volume.name: "tree" for volume in trees}, **{volume.name: "compiler cache" for volume in caches}}
    listed = [*trees, *caches]
    gone, busy = [], set()
    if clean:
        engine.sweep(LABEL, ended=True)  # left by a killed ortforge, or by an engine that stopped
    for volume in listed if clean else []:
        is_tree = kinds[volume.name] == "tree"
        if not is_tree and not everything:
            continue
        if engine.running(LABEL, volume.name if is_tree else ""):
            busy.add(volume.name)
        else:
            engine.remove_volume(volume.name)
            gone.append(volume)
    if as_json:
        rows = [{**asdict(volume), "kind": kinds[volume.name], "removed": volume in gone} for volume in listed]
        echo_json({"rows": rows})
        return
    for volume in listed:
        size = f"{volume.size / 1e6:>10.1f} MB" if volume.size >= 0 else f"{'unknown':>13}"
        of = volume.labels.get("ortforge.target", "")
        end = "  removed" if volume in gone else "  kept: a build runs in it" if volume.name in busy else ""
        typer.echo(f"{kinds[volume.name]:<15}{size}  {volume.name}  {of}{end}".rstrip())
    freed = sum(max(0, volume.size) for volume in gone)
    typer.echo(f"freed {freed / 1e6:.1f} MB" if clean else f"{sum(max(0, v.size) for v in listed) / 1e6:.1f} MB in all")
