"""``tune-session``: the session options that make a model fastest on this runtime, EP and device, if any do.

ONNX Runtime's defaults fit most models. A small model loses more to a second thread than it gains, a machine with many
cores wants another number of them: only measuring tells. The model file stays as it is; what is found is kept beside it
as settings, which the cell's session is then made with, and printed as a line for ``matrix.toml``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._models import loading, model_file
from ._session import session_search, space

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

CONTENDED: Final = 0.10
"""Share of the time in which tasks waited for a processor, from which on something else had the cores."""


@dataclass(frozen=True)
class Parameters:
    """What ``tune-session`` can be told."""

    settings: tuple[str, ...] = field(
        default=(), metadata={"doc": f"what to try, by name or glob: {', '.join(space.KNOBS)}; empty: all"}
    )
    threads: tuple[int, ...] = field(
        default=(),
        metadata={"doc": "numbers of threads to try; empty: powers of two up to the device's, and its cores"},
    )
    budget_s: float = field(
        default=60.0, metadata={"doc": "seconds to search, about; large models take what they need"}
    )
    rounds: int = field(
        default=4, metadata={"doc": "fresh pairs of processes in which the default and the best settings are timed"}
    )
    denormals: bool = field(
        default=False, metadata={"doc": "also try to flush denormal numbers to zero, which changes results"}
    )


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="tune-session",
            summary="the fastest session options on this runtime, EP and device, found by paired timing",
            parameters=Parameters,
            module=__file__,
            kind="prepare",
            needs_calibration=True,
            per_ep=True,
            measures=True,
            objection=_objection,
            example={"budget_s": 30.0},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    if wanted.budget_s <= 0.0:
        return f"budget_s is {wanted.budget_s:g}; a search needs time: 30 to 120 seconds are usual"
    if wanted.rounds < 2:
        return f"rounds is {wanted.rounds}; what processes differ by shows in 2 or more, and well in 4"
    if low := [count for count in wanted.threads if count < 1]:
        return f"threads has {low[0]}; a number of threads is 1 or more (leave threads out to try what the device has)"
    return _unknown(wanted.settings) or _without_effect(wanted)


def _without_effect(wanted: Parameters) -> str:
    """Say which parameter is about settings that are not tried."""
    tried = _matching(wanted.settings)
    if wanted.threads and not {"intra_op_threads", "ep_threads"} & set(tried):
        return "threads is for the settings intra_op_threads and ep_threads, and settings names neither"
    if wanted.denormals and "denormals" not in tried:
        return "denormals = true is for the setting denormals, and settings does not name it"
    if "denormals" in wanted.settings and not wanted.denormals:
        return "settings names denormals, which changes results: say denormals = true, too"
    return ""


def _unknown(wanted: Sequence[str]) -> str:
    for text in wanted:
        if not _matching((text,)):
            return f"settings has {text!r}, which matches nothing; there are {', '.join(space.KNOBS)}"
    return ""


def _matching(wanted: Sequence[str]) -> list[str]:
    return [name for name in space.KNOBS if not wanted or any(fnmatchcase(name, text) for text in wanted)]


def apply(job: PassJob) -> dict[str, Any]:
    """Search, copy the model to ``job.output`` as it is, and return the settings that won, or none.

    :raises ValueError: there are no samples, or the parameters make no sense.
    :raises NotImplementedError: the default session does not load or run on the cell's EP.
    """
    wanted = Parameters(**job.parameters)
    if reason := _unknown(wanted.settings):
        raise ValueError(reason)
    if not job.samples:
        raise ValueError("There are no samples to time the model on. Give the model a calibration dataset.")
    source, output = Path(job.model), Path(job.output)
    situation = space.Situation(
        session=job.session,
        ep_name=job.ep_name,
        ep_options=job.ep_options,
        hardware=space.hardware(),
        branches=_branches(source),
        threads=tuple(wanted.threads),
        denormals=wanted.denormals,
    )
    began, waited = time.monotonic(), _stalled_s()
    try:
        found = session_search.search(
            job, situation, _matching(wanted.settings), budget_s=wanted.budget_s, rounds=wanted.rounds
        )
    except RuntimeError as problem:
        if loading.DIED.match(str(problem)):
            raise RuntimeError(
                f"The model was run on {job.ep_name} as it is, to be compared with, and "
                f"{model_file.first_sentence(problem)}"
            ) from problem
        raise NotImplementedError(
            f"The model does not run on {job.ep_name} with the default session, so there is nothing to tune: "
            f"{model_file.first_line(problem)}"
        ) from problem
    seconds = time.monotonic() - began
    after = _stalled_s()
    share = None if waited is None or after is None else min(1.0, (after - waited) / seconds)
    made = output.with_name(source.name) if source.suffix == ".ort" else output
    model_file.copy(source, made)
    told = {"seconds": round(seconds, 1), "waited_for_cpu": None if share is None else round(share, 3)}
    return {**_result(found, situation), **told, "file": made.name, "warnings": _warnings(found, share, job.samples)}


def _branches(source: Path) -> space.Branches | None:
    """Return what could run side by side, or ``None`` for ORT's own format.

    :raises ValueError: the file is no ONNX model.
    """
    if source.suffix == ".ort":
        return None
    import onnx

    try:
        return space.branching(onnx.load(str(source), load_external_data=False).graph)
    except Exception as problem:
        raise ValueError(
            f"The model cannot be read: {model_file.first_line(problem)}. Is it an ONNX file?"
        ) from problem


def _stalled_s() -> float | None:
    """Return the seconds in which some task of this machine waited for a processor so far, where Linux tells."""
    try:
        text = Path("/proc/pressure/cpu").read_text("ascii")
        return int(text.split("total=", 1)[1].split(None, 1)[0]) / 1e6
    except (OSError, IndexError, ValueError):
        return None


def _result(found: session_search.Found, situation: space.Situation) -> dict[str, Any]:
    kept = found.kept
    made: dict[str, Any] = {
        "chosen": kept.text if kept else "none: the default session",
        "best": found.best.text,
        "outcome": found.outcome,
        "noise": round(found.floor, 4),
        "default_against_itself": found.itself.as_json(),
        "default": {name: value for name, value in situation.session.items() if name != "inputs"},
        "tried": [one.as_json() for one in found.tried],
        "skipped": found.skipped,
    }
    if found.final is not None:
        made |= found.final.as_json()
    if kept:
        made |= {"session": dict(kept.session), "ep_options": dict(kept.ep_options), "paste": kept.lines}
    return made


def _warnings(found: session_search.Found, share: float | None, samples: Sequence[Path]) -> list[str]:
    said = []
    failed = [one for one in found.tried if one.outcome == "failed"]
    if not found.kept:
        said.append(f"NO-OP: {_why_nothing(found)} The default session stays.")
    if share is not None and share > CONTENDED:
        said.append(
            f"Tasks waited for a processor during {share:.0%} of the search: something else was running. What won may "
            "not win, and what won nothing may, when the machine is quiet."
        )
    if failed:
        more = f" ({len(failed)} settings failed)" if len(failed) > 1 else ""
        said.append(f"With {failed[0].setting} the session fails: {failed[0].problem}{more}.")
    if _made_up(samples):
        said.append("The session was tuned on made-up inputs: give the model a calibration dataset with real ones.")
    return said


def _why_nothing(found: session_search.Found) -> str:
    if found.outcome == "failed":
        return f"{found.best.text} looked best and failed when it was timed again: {found.problem}."
    count = len(found.tried)
    if found.final is not None:
        of = f"the best of {count} settings" if count > 1 else "the only setting that was tried"
        return (
            f"{of} ({found.best.text}) runs at {found.final.ratio:.3g} times the default's speed "
            f"(95 % interval {found.final.low:.3g} to {found.final.high:.3g}), which is not beyond the noise floor of "
            f"{found.floor:.1%}: it cannot be told apart."
        )
    if count:
        tried = "1 setting was tried, and it was not" if count == 1 else f"{count} settings were tried, and none was"
        return f"{tried} faster than the default (noise floor {found.floor:.1%})."
    if session_search.TIME_USED_UP in found.skipped.values():
        return "timing the default against itself took the whole time, so nothing was tried: give budget_s more."
    return "there was nothing to try here (the result says why of each setting)."


def _made_up(samples: Sequence[Path]) -> bool:
    """Whether the samples' index says that their source made them up."""
    try:
        index = json.loads((Path(samples[0]).parent / "index.json").read_text("utf-8"))
    except (OSError, ValueError, IndexError):
        return False
    return isinstance(index, dict) and bool(index.get("random"))
