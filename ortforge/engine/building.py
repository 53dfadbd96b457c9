"""Builds source targets: the part of the step graph that ends in proven wheels, and their way out of the store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ortforge.api import Executor
from ortforge.engine.run import Listener
from ortforge.engine.walk import Events, Settled, WalkOptions, walk
from ortforge.engine.work import hearing
from ortforge.errors import ExitCode
from ortforge.plan.graph import Plan, Step
from ortforge.plan.planner import BuildPlan
from ortforge.store import Store

__all__ = ["Built", "build_targets", "export"]


@dataclass(frozen=True, slots=True)
class Built:
    """What became of one target.

    :param status: ``ok``, or that of the step that failed. :param reason: why, unless ``ok``.
    :param facts: of the package step: wheel, sha256, bytes, findings; of the compile step when the build ends there.
    :param proof: of the prove step, if there is one.
    :param steps: id, status, seconds and whether it was known, of every step of the target.
    """

    target: str
    status: str
    reason: str = ""
    exit_code: int = 0
    digest: str = ""
    log: str = ""
    facts: Mapping[str, Any] | None = None
    proof: Mapping[str, Any] | None = None
    steps: Sequence[Mapping[str, Any]] = ()


class _Told(Events):
    """Passes the walk's news on to whoever shows progress."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def step_started(self, step: Step) -> None:
        self._listener.step_started(step.id, step.kind, step.id.partition(":")[2])

    def step_settled(self, settled: Settled) -> None:
        if settled.status != "blocked":
            step = settled.step
            self._listener.step_finished(
                step.id, step.kind, settled.status, settled.seconds, cached=settled.cached, reason=settled.reason
            )


def build_targets(
    build: BuildPlan, *, store: Store, executor: Executor, listener: Listener, options: WalkOptions | None = None
) -> list[Built]:
    """Build, package and prove targets; each ends on its own, whatever becomes of the others."""
    plan, options = Plan(build.steps, ()), options or WalkOptions()
    run_id = store.ledger.start_run(matrix="", matrix_digest="", host="", argv=["build"])
    listener.run_started(len(plan.steps), 0)
    events = _Told(listener)
    with hearing(listener.step_said):
        settled = walk(plan, store, executor, run_id, options=options, events=events)
        if _is_gone(build, settled, store):
            again = replace(options, fresh_kinds=options.fresh_kinds | {"package"})
            listener.run_started(len(plan.steps), 0)
            settled = walk(plan, store, executor, run_id, options=again, events=events)
    executor.shutdown(cancel=False)
    return [_built(target, settled, build) for target in build.targets]


def _is_gone(build: BuildPlan, settled: Mapping[str, Settled], store: Store) -> bool:
    """Say whether a package is known and no longer in the store: no later step would miss it and have it made again."""
    packages = [settled[package] for package, prove in build.targets.values() if prove != package]
    return any(one.ok and one.cached and not store.objects.has(one.identity) for one in packages)


def _built(target: str, settled: Mapping[str, Settled], build: BuildPlan) -> Built:
    package, prove = build.targets[target]
    wanted, stack = [], [prove, package]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.append(name)
            stack.extend(build.steps[name].inputs)
    mine = [settled[name] for name in build.steps if name in wanted]
    steps = [
        {"id": one.step.id, "status": one.status, "seconds": one.seconds, "cached": one.cached, "key": one.key}
        for one in mine
    ]
    failed = next((one for one in mine if not one.ok and one.status != "blocked"), None)
    if failed is not None:
        code = int(failed.result.get("exit_code", ExitCode.BUILD))
        reason = f"{failed.step.id}: {failed.reason}"
        log = str(failed.result.get("log", "")) or failed.log
        return Built(target, failed.status, reason, code, log=log, steps=steps)
    made = settled[package]
    proof = settled[prove].result if prove != package else None
    return Built(target, "ok", digest=made.identity, facts=made.result, proof=proof, steps=steps)


def export(built: Built, store: Store, folder: Path) -> Path:
    """Copy a target's wheel and what belongs to it out of the store, to ``folder/TARGET``."""
    place = folder / built.target
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(store.objects.get(built.digest), fresh)
    for path in (fresh, *fresh.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    return place
