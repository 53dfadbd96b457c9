"""One run from beginning to end: walk the plan, judge the cells as they become ready, assemble the report."""

from __future__ import annotations

import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from ortforge import __version__
from ortforge.api import Device, Executor, Task, TaskOutcome
from ortforge.engine.cells import defective_cell, judge_cell, load_attempt
from ortforge.engine.evidence import branch_notes, instability
from ortforge.engine.exit_codes import obstacle
from ortforge.engine.walk import Events, Settled, WalkOptions, walk
from ortforge.engine.work import hearing, run_task
from ortforge.engine.worth_timing import skipper
from ortforge.errors import ExitCode
from ortforge.matrix.expectations import Expectation
from ortforge.plan.graph import Cell, Plan, Step
from ortforge.plugin_manager import Plugins
from ortforge.portable.statuses import BROKEN
from ortforge.report.expectations import assess
from ortforge.report.ships import best_per_model, what_ships
from ortforge.runtime import device as devices
from ortforge.store import Store
from ortforge.verdict.together import damage, reconsidered

__all__ = ["Expectations", "Listener", "execute"]

NOT_TAKEN: Final = ("blocked", "skipped")
"""What becomes of steps that were not run and have no result."""


class Listener(Protocol):
    """What shows a run's progress (see :mod:`ortforge.report.progress`)."""

    def run_started(self, total_steps: int, cells: int) -> None:
        """Be told how much there is."""

    def step_started(self, step_id: str, kind: str, text: str) -> None:
        """Be told that a step began."""

    def step_said(self, step_id: str, text: str) -> None:
        """Be told how far a long step is, from the step's own thread."""

    def step_finished(self, step_id: str, kind: str, status: str, seconds: float, *, cached: bool, reason: str) -> None:
        """Be told that a step ended."""

    def cell_judged(self, cell: Mapping[str, Any]) -> None:
        """Be told a verdict."""

    def run_finished(self, report: Mapping[str, Any]) -> None:
        """Be told that it is over."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a run is compared with.

    :param cells: the expectation of each cell that has one. :param strict: every cell must pass, whatever is expected.
    :param matrix_cells: ids of all cells of the matrix, of which a run may be a part.
    :param accept: the verdicts of this run become the expectation of all cells that no ``[[expect]]`` matches, unless
        the environment or a build kept the run from being done.
    """

    cells: Mapping[str, Expectation] = field(default_factory=dict)
    strict: bool = False
    accept: bool = False
    accepted_source: str = ""
    matrix_cells: frozenset[str] = frozenset()

    def accepting(self, cells: Iterable[Mapping[str, Any]]) -> dict[str, Expectation]:
        """Return the expectations with the verdicts of some cells accepted."""
        stated = {name: entry for name, entry in self.cells.items() if not entry.accepted}
        return {
            **self.cells,
            **{cell["id"]: Expectation((cell["status"],), "", self.accepted_source, accepted=True) for cell in cells},
            **stated,
        }


def execute(
    plan: Plan,
    *,
    matrix_file: Path,
    store: Store,
    plugins: Plugins,
    device: Device,
    executor: Executor,
    listener: Listener,
    options: WalkOptions | None = None,
    expectations: Expectations = Expectations(),
    run: Callable[[Task], TaskOutcome] = run_task,
) -> dict[str, Any]:
    """Run a plan and return the report, which is also kept in the ledger.

    Every cell gets a verdict, whatever happened to it; only an interruption or a defect raises.

    :raises StoreError: the store cannot be written, for example because the disk is full.
    """
    started, matrix_file = datetime.now(UTC), matrix_file.resolve()
    run_id = store.ledger.start_run(
        matrix=str(matrix_file), matrix_digest=plan.matrix_digest, host=platform.node(), argv=sys.argv[1:]
    )
    plugins.notify(
        "ortforge_run_started", run={"id": run_id, "matrix_digest": plan.matrix_digest, "cells": len(plan.cells)}
    )
    listener.run_started(len(plan.steps), len(plan.cells))
    where = ("--matrix", str(matrix_file), "--store", str(store.root))
    desk = _Desk(plan, store, plugins, listener, run_id, where)
    desk.judge_unsupported()
    with hearing(listener.step_said):
        skip = skipper(plan.cells)
        settled = walk(plan, store, executor, run_id, options=options, events=desk, run=run, skip=skip)
    executor.shutdown(cancel=False)
    desk.judge_rest(settled)
    desk.judge_together(settled)
    cells = [desk.judged[cell.id] for cell in plan.cells]
    tally = Counter(cell["status"] for cell in cells)
    finished = datetime.now(UTC)
    report: dict[str, Any] = {
        "schema": 1,
        "ortforge": __version__,
        "run": {
            "id": run_id,
            "matrix": str(matrix_file),
            "matrix_digest": plan.matrix_digest,
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": (finished - started).total_seconds(),
            "host": platform.node(),
            "store": str(store.root),
            "argv": sys.argv[1:],
            "steps": {
                "run": sum(not step.cached and step.status not in NOT_TAKEN for step in settled.values()),
                "cached": sum(step.cached for step in settled.values()),
                "failed": sum(not step.ok and step.status != "skipped" for step in settled.values()),
            },
        },
        "device": {**asdict(device), "cpu_flags": sorted(device.cpu_flags), "identity": devices.identity(device)},
        "runtimes": _runtimes(settled),
        "builds": _builds(settled),
        "models": _models(settled),
        "noise": _noise(settled),
        "notes": [*plan.notes, *dataset_notes(settled)],
        "summary": dict(tally),
        "cells": cells,
    }
    report["ships"] = what_ships(report)
    report["best"] = best_per_model(report)
    _compare_with_expectations(report, expectations, plan, settled)
    store.ledger.finish_run(run_id, exit_code=report["exit_code"], report=report)
    plugins.notify("ortforge_run_finished", run_id=run_id, report=report)
    listener.run_finished(report)
    return report


def _compare_with_expectations(
    report: dict[str, Any], given: Expectations, plan: Plan, settled: Mapping[str, Settled]
) -> None:
    """Add ``expectations`` and ``exit_code`` to a report, and to each cell what was expected of it."""
    left_out = given.matrix_cells - {cell["id"] for cell in report["cells"]}
    found = assess(report, given.cells, strict=given.strict, left_out=left_out)
    not_met = {problem["cell"] for problem in found["problems"]}
    unmet = [cell["id"] for cell in report["cells"] if cell["status"] in BROKEN and cell["id"] in not_met]
    code = obstacle(plan.cells, settled, unmet)
    if given.accept and code is None:
        found = assess(report, given.accepting(report["cells"]), strict=given.strict, left_out=left_out)
    by_cell = found.pop("cells")
    problems = {problem["cell"]: problem["what"] for problem in found["problems"]}
    for cell in report["cells"]:
        cell["expectation"] = by_cell.get(cell["id"])
        cell["problem"] = problems.get(cell["id"], "")
    report["expectations"] = {**found, "accepted": given.accept and code is None}
    report["exit_code"] = int(code or (ExitCode.PASS if found["met"] else ExitCode.VERDICT))


@dataclass(slots=True)
class _Desk(Events):
    """Judges each cell as soon as its last step is settled, and passes news on."""

    plan: Plan
    store: Store
    plugins: Plugins
    listener: Listener
    run_id: str
    where: tuple[str, ...]
    settled: dict[str, Settled] = field(default_factory=dict)
    users: dict[str, list[Cell]] = field(default_factory=lambda: defaultdict(list))
    open_steps: dict[str, set[str]] = field(default_factory=dict)
    judged: dict[str, dict[str, Any]] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for cell in self.plan.cells:
            names = {*cell.steps.values(), *cell.transforms}
            # A recipe's overall ratio is composed with its plain cell's, so that one comes first.
            plain = f"time:{cell.baseline}"
            if cell.recipe != "none" and plain in self.plan.steps:
                names.add(plain)
            self.open_steps[cell.id] = names
            for name in names:
                self.users[name].append(cell)

    def judge_unsupported(self) -> None:
        for cell in self.plan.cells:
            if cell.unsupported:
                self.judge(cell)

    def step_started(self, step: Step) -> None:
        self.listener.step_started(step.id, step.kind, step.id.partition(":")[2])

    def step_settled(self, settled: Settled) -> None:
        step = settled.step
        self.settled[step.id] = settled
        if settled.status not in NOT_TAKEN:
            self.listener.step_finished(
                step.id, step.kind, settled.status, settled.seconds, cached=settled.cached, reason=settled.reason
            )
            fact: dict[str, Any] = {"id": step.id, "kind": step.kind, "key": settled.key, "status": settled.status}
            fact |= {"seconds": settled.seconds, "reason": settled.reason, "cached": settled.cached}
            self.plugins.notify("ortforge_step_finished", run_id=self.run_id, step=fact)
        for cell in self.users[step.id]:
            self.open_steps[cell.id].discard(step.id)
            if cell.id in self.judged:
                self.stale.add(cell.id)
            elif not self.open_steps[cell.id]:
                self.judge(cell)

    def judge_rest(self, settled: Mapping[str, Settled]) -> None:
        """Judge again what was judged from a step that had to be made anew afterwards."""
        self.settled = dict(settled)
        for cell in self.plan.cells:
            if cell.id not in self.judged or cell.id in self.stale:
                self.judge(cell)

    def judge_together(self, settled: Mapping[str, Settled]) -> None:
        """Change the verdicts that other cells of the same model decide."""
        models = {name.partition(":")[2]: step for name, step in settled.items() if name.startswith("inspect:")}
        damaged, unread = {}, {}
        for model, step in models.items():
            found = [load_attempt(cell, settled) for cell in self.plan.cells if cell.model == model]
            attempts = [attempt for attempt in found if attempt is not None]
            unread[model] = str(step.result.get("unread", ""))
            if step.ok and (why := damage(unread[model], str(step.result.get("unloaded", "")), attempts)):
                damaged[model] = why
        for entry in reconsidered([self.judged[cell.id] for cell in self.plan.cells], damaged, unread):
            self.judged[entry["id"]] = entry
            self.store.ledger.record_cell(self.run_id, entry["id"], entry["status"], entry)

    def judge(self, cell: Cell) -> None:
        try:
            entry = judge_cell(cell, self.settled, self.where)
        except Exception as error:
            entry = defective_cell(cell, error, self.where)
        self.judged[cell.id] = entry
        self.store.ledger.record_cell(self.run_id, cell.id, entry["status"], entry)
        self.listener.cell_judged(entry)
        self.plugins.notify("ortforge_cell_judged", run_id=self.run_id, cell=entry)


def dataset_notes(settled: Mapping[str, Settled]) -> list[str]:
    """Return sentences about datasets whose code gives other samples each time, or reads files that nobody sees."""
    notes = []
    for name, step in settled.items():
        if step.step.kind != "dataset" or not (step.result.get("repeated") or step.result.get("unseen")):
            continue
        model, _, split = name.partition(":")[2].rpartition("/")
        source = f"{step.step.parameters['scheme']}:{step.step.context['reference']}"
        if step.result.get("repeated"):
            notes.append(
                f"The {split} dataset of {model} gives other samples each time ({source}): "
                f"{step.result['repeated']}. Results on another machine or in a new store will differ. "
                "Seed its random numbers, for example with the argument 'seed' that the function may take."
            )
        if step.result.get("unseen"):
            notes.append(
                f"The {split} dataset of {model} ({source}) uses {', '.join(step.result['unseen'])}, which may read "
                "files that ortforge does not see; a change of such a file is not noticed. Open it once with Python's "
                "open(), or list its folder, so that it is."
            )
    return notes


def _runtimes(settled: Mapping[str, Settled]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, step in settled.items():
        kind, _, target = name.partition(":")
        if kind == "provision" and step.ok:
            probe, environment = step.result["probe"], step.result["environment"]
            found[target] = {
                "hash": step.identity,
                "ort_version": probe["ort_version"],
                "python": probe["python"],
                "packages": environment["packages"],
                "providers": probe["providers"],
                "container": (step.result.get("container") or {}).get("reference", ""),
            }
    return found


def _builds(settled: Mapping[str, Settled]) -> dict[str, Any]:
    """Say what was built: the wheel of each source target, and what leaving operators out has saved."""
    made = {
        step.step.context["request"]["target"]: step
        for step in settled.values()
        if step.step.kind == "package" and step.ok
    }
    found: dict[str, Any] = {}
    for target, step in made.items():
        entry = {name: step.result.get(name) for name in ("artifact", "kind", "sha256", "bytes")}
        proof = settled.get(f"prove:{target}")
        entry["proof"] = list(proof.result.get("lines", ())) if proof is not None and proof.ok else []
        needed = settled.get(f"operators:{target}")
        if needed is not None and needed.ok:
            entry["operators"] = needed.result["operators"]
            same = [name for name, other in made.items() if _whole(other, step)]
            if same:
                saved = made[same[0]].result["bytes"] - entry["bytes"]
                entry["saved"] = {"than": same[0], "bytes": saved, "share": saved / made[same[0]].result["bytes"]}
        found[target] = entry
    return found


def _whole(other: Settled, reduced: Settled) -> bool:
    """Say whether a build is what another, reduced one would be with all operators."""
    theirs, ours = other.step.context["request"], reduced.step.context["request"]
    return not theirs["operators"] and all(theirs[name] == ours[name] for name in ("version", "eps", "artifact"))


def _models(settled: Mapping[str, Settled]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, step in settled.items():
        kind, _, model = name.partition(":")
        if kind == "fetch" and step.ok:
            inspected = settled[f"inspect:{model}"]
            seen = inspected.result if inspected.ok else {}
            found[model] = {
                "digest": step.identity,
                "bytes": step.result["bytes"],
                "licence": step.result.get("licence") or _licence(seen.get("metadata") or {}),
                "reference": step.result.get("reference", ""),
                "notes": _model_notes(settled.get(f"reference:{model}"), seen),
                **{fact: seen.get(fact) for fact in ("ops", "ir_version", "opsets", "inputs", "outputs", "metadata")},
            }
    return found


def _model_notes(reference: Settled | None, inspected: Mapping[str, Any]) -> list[str]:
    """Return what is true of a model whatever is done with it: said once, and not for each of its cells."""
    if reference is None or not reference.ok:
        return []
    unstable = instability(reference.result, inspected)
    return [*([unstable] if unstable else []), *branch_notes(reference.result)]


def _licence(metadata: Mapping[str, str]) -> str:
    """Return the licence that a model's own metadata state, in either spelling, or ``""``."""
    return next((text for name, text in metadata.items() if name.lower() in ("license", "licence")), "")


def _noise(settled: Mapping[str, Settled]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, step in settled.items():
        if step.step.kind == "noise" and step.ok:
            model = name.partition(":")[2].partition("@")[0]
            found[model] = {**step.result["noise"], "trust": step.result["trust"]}
    return found
