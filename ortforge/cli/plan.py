"""ortforge plan: what a run would do, what is known already, and why."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ortforge.cli.shared import Json, MatrixFile, Only, StoreFolder, echo_json, prepare

if TYPE_CHECKING:
    from ortforge.store.ledger import Ledger, StepRecord


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan", epilog="Example: ortforge plan --steps --cell 'vad/*'")(plan)


def plan(
    ctx: typer.Context,
    matrix: MatrixFile = Path("matrix.toml"),
    store: StoreFolder = None,
    cell: Only = None,
    steps: Annotated[bool, typer.Option("--steps", help="List every step with its key and why it would run.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="List every cell.")] = False,
    as_json: Json = False,
) -> None:
    """Show what 'ortforge run' would do: steps to run, to retry, cached, or not known yet. Runs nothing."""
    from ortforge.matrix.expectations import load_expectations
    from ortforge.plan.lookup import prospects, tally

    prepared = prepare(ctx, matrix, store, cell)
    load_expectations(prepared.matrix)  # what is wrong with it is known before anything runs
    ledger = prepared.store.ledger
    last_many = partial(ledger.last_many, brief=True)
    found = prospects(prepared.plan, partial(_brief_records, ledger), last_many, ledger.last_done_of_steps)
    unsupported = [entry for entry in prepared.plan.cells if entry.unsupported]
    if as_json:
        echo_json(
            {
                "matrix_digest": prepared.plan.matrix_digest,
                "notes": list(prepared.plan.notes),
                "cells": [
                    {
                        "id": entry.id,
                        "unsupported": entry.unsupported,
                        "baseline": entry.baseline,
                        "steps": dict(entry.steps),
                    }
                    for entry in prepared.plan.cells
                ],
                "steps": [
                    {
                        "id": item.step.id,
                        "kind": item.step.kind,
                        "key": item.key,
                        "state": item.state,
                        "why": item.why,
                        "inputs": list(item.step.inputs),
                        "after": list(item.step.after),
                    }
                    for item in found
                ],
            }
        )
        return
    counts = tally(found)
    states = ("run", "retry", "unknown", "cached")
    typer.echo(f"{len(prepared.plan.cells)} cells, {len(found)} steps; {len(unsupported)} cells unsupported here")
    typer.echo(f"{'step':<12}" + "".join(f"{state:>9}" for state in states))
    for kind in dict.fromkeys(item.step.kind for item in found):
        typer.echo(f"{kind:<12}" + "".join(f"{counts[kind, state] or '·':>9}" for state in states))
    typer.echo(
        "run: no result under this key; retry: failed last time; unknown: waits for a step that has no result yet"
    )
    for note in prepared.plan.notes:
        typer.echo(f"note: {note}")
    if cells:
        for entry in prepared.plan.cells:
            typer.echo(f"{entry.id}" + (f"  unsupported: {entry.unsupported}" if entry.unsupported else ""))
    else:
        reasons: dict[tuple[str, str, str], dict[str, None]] = {}
        for entry in unsupported:
            reasons.setdefault((entry.target, entry.ep, entry.unsupported), {})[entry.recipe] = None
        recipes = {entry.recipe for entry in prepared.plan.cells}
        for (target, ep, reason), of in reasons.items():
            which = "" if recipes == of.keys() else f" ({', '.join(of)})"
            typer.echo(f"unsupported: {target}:{ep}{which}: {reason}")
    if steps:
        for item in found:
            typer.echo(f"{item.state:<8} {item.key[:12] or '-':<12} {item.step.id}  ({item.why})")


def _brief_records(ledger: Ledger, keys: Iterable[str]) -> dict[str, StepRecord]:
    """Return successful attempts without their results, except for kinds whose results are checked against files."""
    from ortforge.plan.recorded_files import CHECKED_KINDS

    records = ledger.done_many(keys, brief=True)
    return records | ledger.done_many(key for key, record in records.items() if record.kind in CHECKED_KINDS)
