"""``quantize-auto``: the fastest quantization of a model that holds its tolerance on this runtime, found by search.

Which way of quantizing is correct and fast is a property of model, runtime and device together: what is 2.2 times as
fast on one is ruined or slower on the next. This pass tries the ways there are on the cell's own EP, keeps as few nodes
in float as the tolerance asks for, and hands on the float model when nothing is better.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._auto import auto_search, candidate_choice, scheme_table, trial_bench
from ._models import loading, model_file, ort_graph, outlines
from ._quantization import quantizing

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

LEAST_BUDGET_S: Final = 16.0
"""What a search may take at least when its time is chosen for it: process starts alone take most of a small one's.

Half of what it was while each candidate waited for its process to start, and took turns for the whole glance."""

BUDGET: Final = 5.0
"""How many static quantizations of the model a search may take otherwise."""

FEWEST_SAMPLES: Final = 4
"""Below this nothing is held apart: candidates are judged on what they were calibrated on, and that is said."""

STRICTER: Final[Mapping[str, Any]] = {"agreement": max, "cosine": max, "max_rel_range": min, "sqnr_db": max}
"""The limits that a recipe may set for its search, and which of two values is the stricter one."""

BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "agreement": (0.0, 1.0),
    "cosine": (-1.0, 1.0),
    "max_rel_range": (0.0, math.inf),
    "sqnr_db": (0.0, math.inf),
}
"""Between which values they lie, as in the file's own ``tolerance``."""


@dataclass(frozen=True)
class Parameters:
    """What ``quantize-auto`` can be told."""

    schemes: tuple[str, ...] = field(
        default=(), metadata={"doc": "schemes to try, by name or glob (static*, dynamic-smooth); empty: all that fit"}
    )
    budget_s: float = field(
        default=0.0, metadata={"doc": "seconds to search; 0: five static quantizations of the model, at least 16 s"}
    )
    max_candidates: int = field(default=40, metadata={"doc": "models to build and try at most"})
    margin: float = field(
        default=0.1, metadata={"doc": "share of the allowed error that is left unused, for inputs that were not seen"}
    )
    tolerance: dict[str, float] = field(
        default_factory=dict,
        metadata={"doc": "limits stricter than the model's: cosine, sqnr_db, max_rel_range, agreement"},
    )
    nodes_to_exclude: tuple[str, ...] = field(
        default=(), metadata={"doc": "nodes that stay float in every candidate, by name or glob"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="quantize-auto",
            summary="the fastest quantization that holds the tolerance on this runtime, found by search",
            parameters=Parameters,
            module=__file__,
            kind="quantize",
            needs_calibration=True,
            requires=("onnxconverter-common",),
            per_ep=True,
            measures=True,
            objection=_objection,
            example={"tolerance": {"cosine": 0.995}},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    if not use.has_calibration:
        return "it calibrates and judges candidates on calibration data; give the model a calibration dataset"
    if not 0.0 <= wanted.margin < 1.0:
        return f"margin {wanted.margin:g} is no share: give one from 0 to below 1"
    if wanted.budget_s < 0.0 or wanted.max_candidates < 1:
        return "a search needs time and candidates: budget_s is 0 or more, max_candidates 1 or more"
    if unknown := sorted(set(wanted.tolerance) - set(STRICTER)):
        return f"tolerance has {unknown[0]!r}; a search can hold {', '.join(sorted(STRICTER))}"
    for name, value in wanted.tolerance.items():
        low, high = BOUNDS[name]
        if not low <= value <= high or value == math.inf:
            most = f" and at most {high:g}" if high < math.inf else ""
            return f"tolerance has {name} = {value:g}, which nothing can hold or break: give at least {low:g}{most}"
    return _unknown_scheme(wanted.schemes)


def _unknown_scheme(wanted: Iterable[str]) -> str:
    known = [*scheme_table.SCHEMES, scheme_table.OPTIMIZED]
    for text in wanted:
        if not any(fnmatchcase(name, text) for name in known):
            return f"there is no scheme {text!r}; there are {', '.join(known)}"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Search, and write what is best on this runtime, or the float model, to ``job.output``.

    :raises ValueError: the model cannot be read or is quantized, there are no samples, or a node is not there.
    :raises NotImplementedError: the float model itself does not load or run on the cell's EP.
    """
    wanted = Parameters(**job.parameters)
    if reason := _unknown_scheme(wanted.schemes):
        raise ValueError(reason)
    if not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    began = time.monotonic()
    source, output, workdir = Path(job.model), Path(job.output), Path(job.workdir)
    if reason := quantizing.why_classical(outlines.outline_of(source)):
        return quantizing.unchanged(source, output, reason)
    calibrated_on, judged_on = _split(len(job.samples))
    feeds = list(job.feeds())
    bench = trial_bench.ready(source, [feeds[number] for number in calibrated_on], workdir)
    excluded = bench.chosen(wanted.nodes_to_exclude, "nodes_to_exclude") if wanted.nodes_to_exclude else []
    tolerance = _tolerance(job.tolerance, wanted.tolerance)
    judged = [feeds[number] for number in judged_on]
    try:
        begun = auto_search.Search(
            job,
            bench,
            judged,
            judged_on,
            tolerance,
            margin=wanted.margin,
            excluded=excluded,
            most_candidates=wanted.max_candidates,
        )
    except RuntimeError as problem:
        if loading.DIED.match(str(problem)):
            raise RuntimeError(
                f"The float model was run on {job.ep_name} as it is, to be compared with, and "
                f"{model_file.first_sentence(problem)}"
            ) from problem
        raise NotImplementedError(
            f"The float model itself does not run on {job.ep_name}, so there is nothing to be better than: "
            f"{model_file.first_line(problem)}"
        ) from problem
    with closing(begun) as search:
        _run(search, bench, wanted, job)
        chosen = search.final()
    if chosen is None or chosen.path is None:
        model_file.copy(source, output)
    else:
        model_file.copy(chosen.path, output)
    told: dict[str, Any] = {
        "calibrated_on": len(calibrated_on),
        "judged_on": len(judged_on),
        "tolerance": {name: value for name, value in tolerance.items() if value is not None},
        "margin": wanted.margin,
        "seconds": round(time.monotonic() - began, 1),
    }
    if chosen and chosen.scheme == scheme_table.OPTIMIZED:
        told["stamp"] = ort_graph.stamp_in(model_file.load(output))
    warnings = [*_warnings(search, chosen, calibrated_on, judged_on), *_looser(job.tolerance, wanted.tolerance)]
    return {**told, **_result(search, chosen), "warnings": warnings}


def _run(search: auto_search.Search, bench: trial_bench.Bench, wanted: Parameters, job: PassJob) -> None:
    """Screen all schemes, then refine those that are worth it, the fastest first."""
    schemes = [
        scheme
        for scheme in scheme_table.in_order(bench, job.ep_name, job.ep_options)
        if not wanted.schemes or any(fnmatchcase(scheme.name, text) for text in wanted.schemes)
    ]
    search.allow(wanted.budget_s or LEAST_BUDGET_S)
    for number, scheme in enumerate(schemes):
        search.screen(scheme)
        if number == 0 and not wanted.budget_s and search.candidates:
            search.allow(max(LEAST_BUDGET_S, BUDGET * search.candidates[0].seconds))
    whole = {c.scheme: c for c in search.candidates}
    for candidate in sorted(whole.values(), key=lambda c: -_promise(c)):
        best = search.best.speed if search.best else 0.0
        if search.over or not auto_search.is_worth_refining(candidate) or candidate.may_reach <= best:
            continue
        search.refine(candidate, scheme_table.SCHEMES[candidate.scheme])
    best_found, blocks = search.best, whole.get("weights-8")
    if best_found and best_found.kept and blocks and not blocks.problem and blocks.speed > 1.0 and not search.over:
        search.in_blocks(best_found)
    if not wanted.schemes or any(fnmatchcase(scheme_table.OPTIMIZED, text) for text in wanted.schemes):
        search.fall_back(scheme_table.optimized(job))


def _promise(candidate: candidate_choice.Candidate) -> float:
    """Return how much is to be expected of giving nodes back: the speed that it surely has, over the noise to go."""
    return (candidate.ratio.low if candidate.ratio else 0.0) / max(1.0, candidate.excess)


def _split(count: int) -> tuple[list[int], list[int]]:
    """Return the samples to calibrate on and those to judge on: every other one, or all for both when there are few."""
    numbers = list(range(count))
    if count < FEWEST_SAMPLES:
        return numbers, numbers
    return numbers[0::2], numbers[1::2]


def _tolerance(model: Mapping[str, Any], recipe: Mapping[str, float]) -> dict[str, Any]:
    """Return the model's limits, made stricter by the recipe's."""
    found = dict(model)
    for name, value in recipe.items():
        old = found.get(name)
        found[name] = value if old is None else STRICTER[name](old, value)
    return found


def _looser(model: Mapping[str, Any], recipe: Mapping[str, float]) -> list[str]:
    """Say which of the recipe's limits are without effect, since the model's own are stricter."""
    return [
        f"tolerance: {name} = {value:g} changes nothing here: the model's own limit, {model[name]:g}, is stricter."
        for name, value in recipe.items()
        if model.get(name) is not None and STRICTER[name](model[name], value) != value
    ]


def _result(search: auto_search.Search, chosen: candidate_choice.Candidate | None) -> dict[str, Any]:
    best: dict[str, Any] = {"chosen": chosen.name if chosen else "none: the float model"}
    best["method"] = chosen.scheme.partition("-")[0] if chosen else "none"
    if chosen:
        best |= {"summary": scheme_table.summary_of(chosen.scheme), "speed": round(chosen.speed, 3)}
        best |= {"kept_nodes": list(chosen.kept), "kept_as": chosen.kept_as, "parity": chosen.as_json()["parity"]}
        best["bytes_after"] = chosen.bytes
    return {
        **best,
        "bytes_before": search.float_bytes,
        "float_run_s": float(f"{search.run_s:.4g}"),
        "candidates": [candidate.as_json() for candidate in search.candidates],
        "rankings": {name: ranking.as_json() for name, ranking in search.rankings.items()},
        "skipped": search.skipped,
    }


def _common(skipped: Mapping[str, str]) -> str:
    """Return the reason for which most schemes were not tried, with the schemes' names."""
    if not skipped:
        return "none was asked for"
    reasons = list(skipped.values())
    reason = max(dict.fromkeys(reasons), key=reasons.count)
    more = f"; {len(skipped) - reasons.count(reason)} for other reasons" if len(set(reasons)) > 1 else ""
    return f"{reason} ({', '.join(name for name, why in skipped.items() if why == reason)}{more})"


def _warnings(
    search: auto_search.Search,
    chosen: candidate_choice.Candidate | None,
    calibrated_on: list[int],
    judged_on: list[int],
) -> list[str]:
    said = []
    if chosen is None:
        tried = len(search.candidates)
        able = sum(candidate.holds for candidate in search.candidates)
        were = "candidate was" if tried == 1 else "candidates were"
        said.append(
            f"NO-OP: {tried} {were} tried, {able} of them within the tolerance, and none of those is faster than the "
            "float model on this runtime (or smaller and as fast): the float model ships."
            if tried
            else f"NO-OP: no scheme could be tried: {_common(search.skipped)}. The float model ships."
        )
    if late := [name for name, reason in search.skipped.items() if reason in auto_search.FOR_WANT_OF_TIME]:
        said.append(
            f"For want of time {len(late)} of {len(scheme_table.SCHEMES)} schemes were not tried ({', '.join(late)}): "
            "give budget_s more, or name those to try in schemes."
        )
    if calibrated_on == judged_on:
        said.append(
            f"With {len(judged_on)} calibration samples nothing could be held apart: candidates were judged on what "
            f"they were calibrated on, which flatters them. Give {FEWEST_SAMPLES} or more, better 32."
        )
    return said
