"""One cell's verdict again: its check on the very inputs of the report, the comparison, the judge.

What a report was made from is named by the keys in it. While those inputs are still in the store, they are used, and
what the matrix would use now is compared with them: data or code that changed since the run are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ortforge.api import Task
from ortforge.engine.cells import judge_cell, load_attempt
from ortforge.engine.local import LocalExecutor
from ortforge.engine.repro_folder import keep_case, keep_pass
from ortforge.engine.walk import Settled, WalkOptions, walk
from ortforge.engine.work import run_task
from ortforge.plan.graph import OBJECT_KINDS, Cell, Plan, Step, key_of
from ortforge.plan.lookup import look_up
from ortforge.report.saved import REPRO
from ortforge.store import Store
from ortforge.store.ledger import Ledger
from ortforge.verdict.together import damage, reconsidered

__all__ = ["Reproduced", "reported_cell", "reproduce"]

PINNED: Final = ("artefact", "provision", "dataset", "inspect", "reference", "fetch")
"""Roles whose results the check and the comparison take, and which a report names by their keys."""

_WHAT: Final = {
    "artefact": "the model that the recipe makes",
    "provision": "the runtime",
    "dataset": "the validation data",
    "inspect": "what is read of the model file",
    "reference": "the reference's answer",
    "fetch": "the model",
}


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What became of a cell this time.

    :param cell: its entry as a report would have it. :param reported: its entry in the report, or ``{}``.
    :param changed: sentences about data and code that are not those of the run. :param pinned: whether the report's
        own inputs were used. :param same_outputs: whether the outputs are bitwise those of the run, if both exist.
    """

    cell: Mapping[str, Any]
    reported: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    pinned: bool = False
    same_outputs: bool | None = None

    @property
    def is_same(self) -> bool:
        """Whether the status is that of the report. Without a report there is nothing to be the same as."""
        return bool(self.reported) and self.reported["status"] == self.cell["status"]


def reported_cell(
    ledger: Ledger, cell_id: str, matrix: Path, run_id: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a cell's entry in a report, and the report; both empty where there is none.

    :param run_id: the run that is meant; without it, the latest run of the matrix file that has the cell.
    """
    for run in ledger.runs():
        if (run_id and run.id != run_id) or run.report is None or (not run_id and run.matrix != str(matrix.resolve())):
            continue
        whole = ledger.run(run.id)
        report = dict((whole and whole.report) or {})
        entry = next((cell for cell in report.get("cells", ()) if cell["id"] == cell_id), None)
        if entry is not None:
            return dict(entry), report
    return {}, {}


def reproduce(
    plan: Plan,
    cell_id: str,
    store: Store,
    keep: Path | None,
    *,
    say: Callable[[str], None],
    reported: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
    where: Sequence[str] = (),
) -> Reproduced:
    """Check a cell again whatever is known, compare its outputs with the reference's, and judge it.

    A cell that failed in a pass runs that pass again.

    :param keep: a folder to leave the case in. :param reported: the cell's entry in ``report``.
    :param where: options of the command that the entry names (``--matrix``, ``--store``).
    """
    cell = next(cell for cell in plan.cells if cell.id == cell_id)
    was = reported or {}
    if cell.unsupported:
        return Reproduced(judge_cell(cell, {}, where), was)
    changed, pinned = _pinned(plan, cell, store, was)
    settled = _walked(plan, cell, store) if pinned is None else _again(plan, cell, store, pinned)
    done_here = {*PINNED, "check", "compare"} if pinned is not None else {*cell.steps} - {"time", "noise"}
    settled |= _recorded(plan, cell, store.ledger, was, [role for role in cell.steps if role not in done_here])
    entry = _judged(cell, settled, where, was, report or {})
    if keep is not None:
        _keep(keep, store, plan, cell, settled, entry, say)
    check = settled[cell.steps["check"]]
    before = store.ledger.done(str((was.get("keys") or {}).get("check", "")))
    same = before.identity == check.identity if before is not None and check.ok else None
    return Reproduced(entry, was, tuple(changed), pinned is not None, same)


def _pinned(
    plan: Plan, cell: Cell, store: Store, reported: Mapping[str, Any]
) -> tuple[list[str], dict[str, Settled] | None]:
    """Return what has changed since the report, and the report's own inputs where all of them are still there."""
    keys: Mapping[str, str] = reported.get("keys") or {}
    if not all(role in keys for role in PINNED):
        return [], None
    _, present = look_up(plan.needed_by([cell]), store.ledger.done_many)
    changed, found, gone = [], {}, []
    for role in PINNED:
        step = plan.steps[cell.steps[role]]
        record = store.ledger.done(keys[role])
        if record is None and store.ledger.last(keys[role]) is not None:
            return [], None  # it failed in the run, too
        if record is None or (step.kind in OBJECT_KINDS and not store.objects.has(record.identity)):
            gone.append(_WHAT[role])
            continue
        now = present.get(step.id)
        if now is None or now.identity != record.identity:
            changed.append(
                f"Since the run, {_WHAT[role]} has changed; the run's own is used.".replace(
                    "outputs has", "outputs have"
                )
            )
        found[step.id] = Settled(
            step, "ok", keys[role], record.identity, record.result, "", record.log, record.seconds, True
        )
    if gone:
        return [f"No longer in the store: {', '.join(gone)}. It is made again from the matrix as it is now."], None
    for role in ("check", "compare"):
        step = plan.steps[cell.steps[role]]
        names = [name for name in step.inputs if name in found]
        if role in keys and len(names) == len(step.inputs):
            key = key_of(step, [found[name].identity for name in step.inputs])
            if key != keys[role]:
                changed.append(f"Since the run, the code or the options of the {role} step have changed.")
    return changed, found


def _again(plan: Plan, cell: Cell, store: Store, pinned: Mapping[str, Settled]) -> dict[str, Settled]:
    """Run the check and the comparison on given inputs, in the foreground."""
    settled = dict(pinned)
    for name in cell.transforms:
        settled.setdefault(name, Settled(plan.steps[name], "ok", cached=True))
    for role in ("check", "compare"):
        step = plan.steps[cell.steps[role]]
        settled[step.id] = _run(step, store, settled)
    return settled


def _run(step: Step, store: Store, settled: Mapping[str, Settled]) -> Settled:
    if bad := next((settled[name] for name in step.inputs if not settled[name].ok), None):
        return Settled(step, "blocked", reason=f"{bad.step.id} {bad.status}: {bad.reason}", log=bad.log)
    key = key_of(step, [settled[name].identity for name in step.inputs])
    inputs = tuple((name, settled[name].identity, settled[name].result) for name in step.inputs)
    task = Task(step.id, step.kind, key, step.parameters, inputs, str(store.root), context=step.context)
    done = run_task(task)
    return Settled(step, done.status, key, done.identity, done.result, done.reason, done.log, done.seconds)


def _walked(plan: Plan, cell: Cell, store: Store) -> dict[str, Settled]:
    """Make what the cell needs from the matrix as it is now, its check and, where it failed, its passes anew."""
    roles = {role: name for role, name in cell.steps.items() if role not in ("time", "noise")}
    wanted = plan.needed_by([replace(cell, steps=roles)])
    run_id = store.ledger.start_run(matrix=REPRO, matrix_digest=plan.matrix_digest, host="", argv=["repro", cell.id])
    executor = LocalExecutor(1)
    kinds = frozenset({"check", "compare"})
    settled = walk(wanted, store, executor, run_id, options=WalkOptions(fresh_kinds=kinds))
    if any(settled[name].cached and not settled[name].ok for name in cell.transforms):  # one that was never to succeed
        kinds |= {"transform"}
        settled = walk(wanted, store, executor, run_id, options=WalkOptions(fresh_kinds=kinds))
    executor.shutdown(cancel=False)
    return settled


def _recorded(
    plan: Plan, cell: Cell, ledger: Ledger, reported: Mapping[str, Any], roles: Iterable[str]
) -> dict[str, Settled]:
    """Return what the report's own steps gave: a verdict is reproduced with the run's timings, for no two are equal."""
    keys: Mapping[str, str] = reported.get("keys") or {}
    found = {}
    for role in roles:
        step = plan.steps[cell.steps[role]]
        record = ledger.last(keys[role]) if role in keys else None
        if record is None:
            found[step.id] = Settled(step, "blocked", reason="The run has no result of it, and it is not done here.")
        else:
            found[step.id] = Settled(
                step,
                record.status,
                record.key,
                record.identity,
                record.result,
                record.reason,
                record.log,
                cached=True,
            )
    return found


def _judged(
    cell: Cell,
    settled: Mapping[str, Settled],
    where: Sequence[str],
    reported: Mapping[str, Any],
    report: Mapping[str, Any],
) -> dict[str, Any]:
    """Judge a cell as a run does, beside the other cells of its model as the report has them.

    That a file is damaged was found by asking all runtimes, so the report's reason stands when this one refuses it.
    """
    entry = judge_cell(cell, settled, where)
    inspected = settled[cell.steps["inspect"]]
    unread, unloaded = (str(inspected.result.get(name, "")) for name in ("unread", "unloaded"))
    attempt = load_attempt(cell, settled)
    why = damage(unread, unloaded, [attempt] if attempt else []) if inspected.ok else ""
    others = [one for one in report.get("cells", ()) if one["model"] == cell.model and one["id"] != cell.id]
    if why and any(one["status"] not in ("damaged", "unsupported") for one in others):
        why = ""  # another runtime read it
    if why and reported.get("status") == "damaged":
        why = str(reported["reasons"][0])
    together = reconsidered([entry, *others], {cell.model: why} if why else {}, {cell.model: unread})
    return next((one for one in together if one["id"] == cell.id), entry)


def _keep(
    folder: Path,
    store: Store,
    plan: Plan,
    cell: Cell,
    settled: Mapping[str, Settled],
    entry: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    steps = {role: settled[name] for role, name in cell.steps.items() if name in settled}
    if all(steps[role].ok for role in ("artefact", "provision", "dataset")):
        keep_case(folder, store, plan.steps[cell.steps["check"]].parameters, steps, entry, say)
        return
    failed = next((settled[name] for name in cell.transforms if settled[name].status not in ("ok", "blocked")), None)
    if failed is not None and all(settled[name].ok for name in failed.step.inputs):
        keep_pass(folder, store, failed, settled, say)
    else:
        say("nothing is kept: there is no model, no runtime or no data")
