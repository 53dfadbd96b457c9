"""From settled steps to judged cells, in the form of the JSON report (docs/formats.md)."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ortforge.engine.artefacts import settings_of
from ortforge.engine.evidence import branch_notes, evidence_of, instability
from ortforge.engine.walk import Settled
from ortforge.plan.graph import Cell, VersionConflict
from ortforge.portable.comparison.limits import exceeded
from ortforge.verdict import data_shift
from ortforge.verdict.causes import Setting, causes
from ortforge.verdict.judge import Facts, Verdict, judge
from ortforge.verdict.ratios import MINIMUM_FLOOR, compose, outcome
from ortforge.verdict.tiers import TierFacts, TierKnowledge, with_tiers
from ortforge.verdict.together import LoadAttempt
from ortforge.verdict.tolerance import Tolerance
from ortforge.worker.function_nesting import sentence
from ortforge.worker.session import laid_over

__all__ = ["WITHOUT_RANGES", "defective_cell", "judge_cell", "load_attempt"]

_NEEDED: Final = ("fetch", "provision", "inspect", "dataset")
"""Steps that belong to no single cell: when one fails, the cells that need it are blocked."""

_DEATHS: Final = frozenset({"crashed", "out-of-memory", "timeout"})


def judge_cell(cell: Cell, settled: Mapping[str, Settled], where: Sequence[str]) -> dict[str, Any]:
    """Judge one cell, all of whose steps are settled, and return its entry of the report."""
    steps = {role: settled[name] for role, name in cell.steps.items()}
    status, reason, log = _fate(cell, steps, settled)
    artefact = _artefact(cell, steps)
    timing = _timing(cell, steps)
    check = steps["check"].result if "check" in steps and steps["check"].ok else {}
    compare = _parity(steps)
    facts = Facts(
        status=status,
        reason=reason,
        parity=compare,
        placement=check.get("placement"),
        ep_name=cell.facts.get("ep_name", ""),
        timing=timing,
        is_baseline=cell.facts.get("is_baseline", False),
        is_plain=cell.recipe == "none",
        lossy=cell.facts.get("lossy", False),
        no_op=bool(artefact and artefact["no_op"]),
        unstable=_instability(steps),
        quantized_static=cell.facts.get("quantized_static", False) and not _chose_no_ranges(artefact),
        random_validation=cell.facts.get("random_validation", False) and (status == "ok" or _fails_on_data(steps)),
        random_calibration=cell.facts.get("random_calibration", False),
        goal=cell.facts.get("goal", "latency"),
        bytes=artefact["bytes"] if artefact else None,
        baseline_bytes=steps["fetch"].result["bytes"] if artefact else None,
        tolerance=Tolerance(**cell.facts.get("tolerance", {})),
        warnings=tuple(artefact["warnings"]) if artefact else (),
        notes=_run_notes(steps, artefact, check),
        untimed=cell.facts.get("untimed") or _timing_failure(steps),
    )
    verdict, tiers = _with_tiers(cell, steps, judge(facts), facts)
    if artefact is not None and tiers is not None and tiers.wrong:
        artefact["stamp"] = {**(artefact["stamp"] or {}), "tiers": list(tiers.correct)}
    shown = [*causes(status, reason, _setting(cell, steps)), *verdict.reasons]
    return {
        "id": cell.id,
        "model": cell.model,
        "recipe": cell.recipe,
        "target": cell.target,
        "ep": cell.ep,
        "device": cell.device,
        "status": verdict.status,
        "reasons": shown,
        "notes": list(verdict.notes),
        "random": [split for split in ("validation", "calibration") if cell.facts.get(f"random_{split}")],
        "runtime_hash": steps["provision"].identity if "provision" in steps else "",
        "artefact": artefact,
        "parity": compare,
        "evidence": evidence_of(cell, compare, steps),
        "tiers": tiers.to_json() if tiers is not None else None,
        "placement": check.get("placement"),
        "timing": timing,
        "overall": _overall(cell, steps, settled),
        "load_s": timing["load_s"] if timing else check.get("load_s"),
        "first_run_s": timing["first_run_s"] if timing else check.get("first_run_s"),
        "peak_rss": timing["peak_rss"] if timing else check.get("peak_rss"),
        "device_memory": check.get("device_memory"),
        "ep_options": check.get("ep_options"),
        "bytes": artefact["bytes"] if artefact else None,
        "log": log,
        "command": shlex.join(["ortforge", "repro", cell.id, *where]),
        "cached": all(step.cached for step in steps.values()),
        "keys": {role: step.key for role, step in steps.items() if step.key},
    }


def defective_cell(cell: Cell, error: Exception, where: Sequence[str]) -> dict[str, Any]:
    """Return the entry of a cell that could not be judged: a defect, told as its verdict, and all figures unknown."""
    figures = ("load_s", "first_run_s", "peak_rss", "device_memory", "ep_options", "bytes")
    unknown = ("artefact", "parity", "evidence", "tiers", "placement", "timing", "overall", *figures)
    reason = f"A defect in ortforge or a plugin, met while it was judged: {type(error).__name__}: {error}"
    return {
        "id": cell.id,
        "model": cell.model,
        "recipe": cell.recipe,
        "target": cell.target,
        "ep": cell.ep,
        "device": cell.device,
        "status": "failed",
        "reasons": [reason],
        "notes": [],
        "random": [],
        "runtime_hash": "",
        **dict.fromkeys(unknown),
        "log": "".join(traceback.format_exception(error)),
        "command": shlex.join(["ortforge", "repro", cell.id, *where]),
        "cached": False,
        "keys": {},
    }


def _with_tiers(
    cell: Cell, steps: Mapping[str, Settled], verdict: Verdict, facts: Facts
) -> tuple[Verdict, TierKnowledge | None]:
    """State the CPU tiers of a cell that gave outputs; a failure to compute them is a note, never the cell's fate."""
    step, parity = steps.get("tiers"), facts.parity
    if step is None or facts.status != "ok" or parity is None or verdict.status == "unproven":
        return verdict, None
    known = TierFacts(
        result=step.result if step.ok else {},
        here=cell.facts["here"],
        correct_here=(
            verdict.status != "inaccurate" and not parity["problems"] and not exceeded(parity, facts.tolerance)
        ),
        required=tuple(cell.facts["tiers"]),
        explicit=cell.facts["tiers_listed"],
        tolerance=facts.tolerance,
        is_reference=not cell.transforms,
        problem="" if step.ok else step.reason or "the step did not run",
    )
    return with_tiers(verdict, known)


def _fate(cell: Cell, steps: Mapping[str, Settled], settled: Mapping[str, Settled]) -> tuple[str, str, str]:
    """Return the status that the steps alone give, its reason and the log that shows it."""
    if cell.unsupported:
        status = "incompatible" if isinstance(cell.unsupported, VersionConflict) else "unsupported"
        return status, str(cell.unsupported), ""
    if steps["fetch"].result.get("damaged"):
        return "damaged", f"The model file is damaged: {steps['fetch'].reason}", steps["fetch"].log
    for role in _NEEDED:
        if not steps[role].ok:
            return "blocked", _blame(steps[role]), steps[role].log
    for name in cell.transforms:
        if settled[name].status == "blocked":
            return "blocked", settled[name].reason, settled[name].log
        if not settled[name].ok:
            return settled[name].status, settled[name].reason, settled[name].log
    check = steps["check"]
    if not check.ok:
        return check.status, check.reason, check.log
    for role in ("reference", "compare"):
        if not steps[role].ok and not (role == "compare" and _parity(steps)):
            return "blocked", _blame(steps[role]), steps[role].log
    return _died_timed(cell, steps) or ("ok", "", check.log)


def _died_timed(cell: Cell, steps: Mapping[str, Settled]) -> tuple[str, str, str] | None:
    """Return the fate of a cell that ran once and then died while it was timed (not: whose baseline died)."""
    is_baseline = cell.facts.get("is_baseline", False)
    timed = steps.get("noise" if is_baseline else "time")
    if timed is None or timed.status not in _DEATHS or not (is_baseline or timed.result.get("side") == "candidate"):
        return None
    return timed.status, timed.reason, timed.log


def _fails_on_data(steps: Mapping[str, Settled]) -> bool:
    """Whether the model was loaded and then failed on a sample: only then may made-up inputs be the cause."""
    return "check" in steps and steps["check"].result.get("phase") == "run"


def _setting(cell: Cell, steps: Mapping[str, Settled]) -> Setting:
    """Return what the matrix says of a cell beside what there is, for a failure's cause."""
    if "check" not in steps:
        return Setting()
    session = {**(steps["check"].step.parameters.get("session") or {}), **(cell.facts.get("session") or {})}
    names = ("intra_op_threads", "inter_op_threads")
    made = next((steps[role] for role in ("artefact", "fetch") if role in steps and steps[role].ok), None)
    inspected = steps.get("inspect")
    return Setting(
        threads=tuple((name, int(session[name])) for name in names if session.get(name)),
        cores=int(cell.facts.get("cores") or 0),
        memory=int((steps["check"].step.context.get("limits") or {}).get("memory") or 0),
        model_bytes=int(made.result.get("bytes") or 0) if made is not None else 0,
        functions=sentence(inspected.result.get("functions")) if inspected is not None and inspected.ok else "",
    )


def load_attempt(cell: Cell, settled: Mapping[str, Settled]) -> LoadAttempt | None:
    """Return how a cell's runtime took the model as it came, or ``None`` where it was not asked."""
    if cell.unsupported or cell.transforms or "check" not in cell.steps:
        return None
    check = settled.get(cell.steps["check"])
    if check is None or check.status == "blocked":
        return None
    return LoadAttempt(f"{cell.target}:{cell.ep}", check.status, str(check.result.get("kind", "")), check.reason)


def _blame(step: Settled) -> str:
    return step.reason if step.status == "blocked" else f"{step.step.id} {step.status}: {step.reason}"


def _parity(steps: Mapping[str, Settled]) -> dict[str, Any] | None:
    """Return what was compared: all of it, or all but the metrics whose plugins raised (that step has failed)."""
    return dict(steps["compare"].result) or None if "compare" in steps else None


def _instability(steps: Mapping[str, Settled]) -> str:
    if "reference" not in steps or "inspect" not in steps:
        return ""
    return instability(steps["reference"].result, steps["inspect"].result)


WITHOUT_RANGES: Final = ("dynamic", "weights", "float16", "optimized", "none")
"""What passes that choose how to quantize may answer as their ``method``, besides ``static``."""


def _chose_no_ranges(artefact: Mapping[str, Any] | None) -> bool:
    """Whether a pass that was ready for calibration data fitted no ranges to them in the end (``quantize``)."""
    changed = artefact["changed"] if artefact else {}
    return any(entry.get("method") in WITHOUT_RANGES for entry in changed.values())


def _run_notes(
    steps: Mapping[str, Settled], artefact: Mapping[str, Any] | None, check: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return what the steps noted: of the run of the model, of idle passes, of the data, and of unequal conditions."""
    timed = steps["time"].result if "time" in steps and steps["time"].ok else {}
    unseen = (
        branch_notes(steps["reference"].result) if "reference" in steps and artefact and artefact["changed"] else []
    )
    notes = (check.get("note"), *check.get("remarks", ()), *_idle(artefact), *_data_shift(steps), *unseen)
    return tuple(note for note in (*notes, timed.get("threads_note")) if note)


def _idle(artefact: Mapping[str, Any] | None) -> list[str]:
    """Name the passes that changed nothing, in recipes whose other passes did change something."""
    changed = artefact["changed"] if artefact and not artefact["no_op"] else {}
    return [f'The pass "{name}" changed nothing here.' for name, entry in changed.items() if entry.get("no_op")]


def _data_shift(steps: Mapping[str, Settled]) -> list[str]:
    """Say where calibration and validation data were prepared differently; a dataset's facts may lack a summary."""
    sides = [steps[role] for role in ("calibration", "dataset") if role in steps and steps[role].ok]
    if len(sides) < 2 or not all("inputs" in side.result for side in sides):
        return []
    return data_shift.differences(sides[0].result["inputs"], sides[1].result["inputs"])


def _artefact(cell: Cell, steps: Mapping[str, Settled]) -> dict[str, Any] | None:
    if "artefact" not in steps or not steps["artefact"].ok:
        return None
    made = steps["artefact"]
    own = cell.facts.get("session") or {}
    return {
        "digest": made.identity,
        "bytes": made.result["bytes"],
        "no_op": bool(cell.transforms) and made.identity == steps["fetch"].identity and not own,
        "changed": made.result.get("changed", {}),
        "warnings": made.result.get("warnings", []),
        "stamp": made.result.get("stamp"),
        "session": None,
        "ep_options": None,
        **settings_of({**made.result, "session": laid_over(own, made.result.get("session") or {})}),
    }


def _timing(cell: Cell, steps: Mapping[str, Settled]) -> dict[str, Any] | None:
    """Return the cell's timing; the matrix's baseline has no other side, so its A/A measurement serves."""
    if cell.facts.get("is_baseline"):
        noise = steps.get("noise")
        if noise is None or not noise.ok:
            return None
        facts = dict(noise.result)
        floor = facts.pop("noise")
        return {
            **facts,
            "baseline": "",
            "ratio": 1.0,
            "low": 1.0,
            "high": 1.0,
            "outcome": "baseline",
            "noise": floor["floor"],
            "load": None,
        } | {"pairs": floor["pairs"], "rounds": floor.get("rounds", 1)}
    timed = steps.get("time")
    return {**timed.result, "baseline": cell.baseline} if timed is not None and timed.ok else None


def _timing_failure(steps: Mapping[str, Settled]) -> str:
    for role in ("time", "noise"):
        step = steps.get(role)
        if step is not None and not step.ok and steps["check"].ok:
            return step.reason
    return ""


def _overall(cell: Cell, steps: Mapping[str, Settled], settled: Mapping[str, Settled]) -> dict[str, Any] | None:
    """Return the ratio to the matrix's baseline: measured for a plain cell, composed for a recipe's."""
    timed = steps.get("time")
    if timed is None or not timed.ok:
        return None
    own = {name: timed.result.get(name) for name in ("ratio", "low", "high")}
    if cell.recipe == "none" or cell.facts.get("on_baseline"):
        return {**own, "outcome": timed.result.get("outcome")}
    plain = settled.get(f"time:{cell.baseline}")
    if plain is None or not plain.ok:
        return None
    composed = compose(own, plain.result)
    noise = max(step.result.get("noise") or MINIMUM_FLOOR for step in (timed, plain))
    contended = any(step.result.get("trust") == "contended" for step in (timed, plain))
    return {**composed, "outcome": "undecided" if contended else outcome(composed, noise)}
