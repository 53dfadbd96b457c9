"""How the facts of a report are said, so that the terminal, the HTML page and any other writer say the same.

All functions are pure and take parts of the JSON report (``docs/formats.md``, section Report). A missing number
is said as ``""``: a writer decides what an empty place looks like.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from ortforge.portable.statuses import STATUSES, is_correct

__all__ = [
    "STATUSES",
    "TIMES",
    "TUNING",
    "best_text",
    "build_lines",
    "combination_text",
    "cosine",
    "device_text",
    "duration",
    "evidence_lines",
    "exit_code_text",
    "expectation_text",
    "latency",
    "marks",
    "noise_text",
    "parity_text",
    "percent",
    "placement_text",
    "printable",
    "short_speed",
    "size",
    "speed",
    "spread",
    "summary_text",
    "task_drop",
    "telling_reasons",
    "tuning_facts",
]

TIMES: Final = "\N{MULTIPLICATION SIGN}"

NOT_MEASURABLE: Final = "not measurable on this machine"

TUNING: Final = "tune-session"
"""The pass whose result is said line by line."""

# C0 and C1 control characters but tab and newline: a log tail may hold escape sequences that move a cursor.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ESCAPE_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


def printable(text: object) -> str:
    r"""Return the text without terminal escape sequences and control characters; newline and tab stay.

    >>> printable("\x1b[31mred\x1b[0m\x07")
    'red'
    """
    said = str(text)
    if said.isprintable():
        return said
    return _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", said.replace("\r\n", "\n")))


def size(count: float | None) -> str:
    """Say a number of bytes, in powers of 1000.

    >>> size(90_400_000), size(812)
    ('90.4 MB', '812 B')
    """
    if count is None:
        return ""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    # 999.95 would be said as 1000.0.
    while abs(value) >= 999.95 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def latency(seconds: float | None) -> str:
    """Say a short time with three significant digits.

    >>> latency(0.01234), latency(0.000042), latency(1.5)
    ('12.3 ms', '42 µs', '1.5 s')
    """
    if seconds is None:
        return ""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        value = seconds * factor
        if abs(value) >= 0.9995 or unit == "µs":
            return f"{_three_digits(value)} {unit}"
    return ""


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Say how long something took, for a person.

    >>> duration(3.21), duration(192), duration(7260)
    ('3.2 s', '3 min 12 s', '2 h 1 min')
    """
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(share: float | None) -> str:
    """Say a share; what is small keeps two significant digits, and what is not 0 or 1 is never said to be.

    >>> percent(0.0234), percent(0.9999), percent(1.0), percent(0.00001)
    ('2.3%', '>99.9%', '100%', '<0.01%')
    """
    if share is None:
        return ""
    value = 100 * share
    if value == 0 or value == 100:
        return f"{value:.0f}%"
    if 0 < value < 0.01:
        return "<0.01%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.2f}%" if abs(value) < 1 else f"{value:.1f}%" if abs(value) < 100 else f"{value:.3g}%"


def spread(share: float | None) -> str:
    """Say how far something may be off to either side.

    >>> spread(0.031), spread(0.4811)
    ('±3.1%', '±48%')
    """
    if share is None:
        return ""
    return f"±{percent(share)}" if share < 0.1 else f"±{100 * share:.0f}%"


def cosine(value: float | None) -> str:
    """Say a cosine, rounded down so that only equality is said as 1.

    >>> cosine(0.9999999), cosine(1.0), cosine(0.945)
    ('>0.99999', '1', '0.94500')
    """
    if value is None:
        return ""
    if 0.99999 < value < 1.0:
        return ">0.99999"
    # 0.945 * 1e5 is 94499.99999999999.
    return "1" if value >= 1.0 else f"{math.floor(value * 1e5 + 1e-9) / 1e5:.5f}"


def speed(timing: Mapping[str, Any] | None, *, interval: bool = True) -> str:
    """Return a speed-up over the baseline, or the outcome of a comparison that found none.

    Without an outcome (a composed ratio has none) an interval that contains 1 is undecided. A ratio is written as
    ``1.83`` and the multiplication sign, with its interval as ``[1.79, 1.87]``. Numbers of an interval that is too wide
    to be a measurement are not printed (``measurable`` in ``docs/formats.md``).

    >>> speed({"ratio": 1.01, "low": 0.99, "high": 1.02, "outcome": "same", "noise": 0.03})
    'same (±1.5%)'
    >>> speed({"ratio": 1.2, "low": 2e-14, "high": 2e9, "outcome": "undecided", "measurable": False})
    'not measurable on this machine'
    """
    if not timing or timing.get("ratio") is None:
        return ""
    low, high = timing.get("low"), timing.get("high")
    outcome = timing.get("outcome")
    if outcome is None and low is not None and high is not None and low <= 1.0 <= high:
        outcome = "undecided"
        if low * 4.0 < high:  # ortforge.verdict.ratios.MAX_SPAN, of a ratio that was composed
            return NOT_MEASURABLE
    if outcome == "baseline":
        return "baseline"
    if outcome == "undecided" and timing.get("measurable") is False:
        return NOT_MEASURABLE
    if outcome in ("same", "undecided"):
        width = 0.0 if low is None or high is None else (high - low) / 2
        # The wider of the two things that hide a difference: the interval, and the noise of the comparison.
        wide = max(width, timing.get("noise") or 0.0) if outcome == "undecided" else width
        return f"{outcome} ({spread(wide)})" if interval and wide else str(outcome)
    text = f"{timing['ratio']:.2f}{TIMES}"
    if interval and low is not None and high is not None:
        text += f" [{low:.2f}, {high:.2f}]"
    return text


def short_speed(timing: Mapping[str, Any] | None) -> str:
    """Say a speed-up in few characters: the ratio and half the width of its interval, in percent of it."""
    text = speed(timing, interval=False)
    if not timing or not text.endswith(TIMES) or timing.get("low") is None or timing.get("high") is None:
        return text
    # Rounded up: an interval is never said to be narrower than it is.
    return f"{text} ±{math.ceil(50 * (timing['high'] - timing['low']) / timing['ratio'])}%"


def task_drop(parity: Mapping[str, Any] | None) -> str:
    """Say the largest drop of a task metric, in its own unit, with its name.

    >>> task_drop({"tasks": {"accuracy": {"reference": 0.98, "candidate": 0.975, "drop": 0.005}}})
    'accuracy -0.005'
    """
    tasks = (parity or {}).get("tasks") or {}
    known = [(entry["drop"], name) for name, entry in tasks.items() if entry.get("drop") is not None]
    if not known:
        return ""
    drop, name = max(known)
    return f"{name} {'-' if drop > 0 else '+' if drop < 0 else '±'}{abs(drop):.3g}"


def parity_text(parity: Mapping[str, Any] | None) -> str:
    """Say parity in one phrase: the worst cosine, the largest error as a share of the range, the task drop."""
    if not parity:
        return ""
    if parity.get("identical"):
        return "identical"
    worst = parity.get("worst") or {}
    parts = []
    if worst.get("cosine") is not None:
        parts.append(f"cosine {cosine(worst['cosine'])}")
    if worst.get("max_rel_range") is not None:
        parts.append(f"max error {percent(worst['max_rel_range'])}")
    if not parts and worst.get("agreement") is not None:
        parts.append(f"agreement {percent(worst['agreement'])}")
    if drop := task_drop(parity):
        parts.append(drop)
    return ", ".join(parts)


def noise_text(report: Mapping[str, Any]) -> str:
    """Say how far the comparisons of a run moved on their own, from the least to the most; ``""`` without any.

    >>> noise_text({"cells": [{"timing": {"noise": 0.03}}, {"timing": {"noise": 0.42}}, {"timing": None}]})
    '±3.0% to ±42%'
    """
    noises = [cell["timing"]["noise"] for cell in report["cells"] if (cell.get("timing") or {}).get("noise")]
    if not noises:
        return ""
    low, high = spread(min(noises)), spread(max(noises))
    return low if low == high else f"{low} to {high}"


def evidence_lines(cell: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say what a verdict rests on: named lines, none where nothing was compared.

    >>> evidence_lines(
    ...     {
    ...         "evidence": {
    ...             "samples": 8,
    ...             "inputs": "real",
    ...             "outputs": 2,
    ...             "varying_outputs": 2,
    ...             "slices": 11,
    ...             "decisions": 40,
    ...             "input_shapes": {"x": 3},
    ...             "branches": None,
    ...             "missing": [],
    ...         }
    ...     }
    ... )[0]
    ('compared', '8 real samples, 2 outputs (2 vary), 11 slices with signal, 40 decisions')
    """
    evidence = cell.get("evidence")
    if not evidence:
        return []
    compared = f"{evidence['samples']} {evidence['inputs']} samples, {evidence['outputs']} outputs"
    compared += f" ({evidence['varying_outputs']} vary), {evidence['slices']:,} slices with signal"
    if evidence.get("decisions"):
        compared += f", {evidence['decisions']:,} decisions"
    lines = [("compared", compared)]
    shapes = {name: count for name, count in (evidence.get("input_shapes") or {}).items() if count}
    if shapes:
        lines.append(("input shapes", ", ".join(f"{name}: {count}" for name, count in shapes.items())))
    if branches := evidence.get("branches"):
        taken = branches.get("problem") or (
            f"{branches['both']} of {branches['conditions']} If nodes took both branches"
            + (f"; {branches['hidden']} in subgraphs were not looked into" if branches.get("hidden") else "")
        )
        lines.append(("branches", taken))
    if tiers := cell.get("tiers"):
        answers = (("correct on", "correct"), ("wrong on", "wrong"), ("not known on", "unknown"))
        lines += [(name, ", ".join(tiers[key])) for name, key in answers if tiers[key]]
    return lines


def placement_text(placement: Mapping[str, Any] | None) -> str:
    """Say which EPs ran how much of the model: by time where that is known, else by nodes.

    >>> placement_text({"nodes": {"CPUExecutionProvider": 40}, "time_share": {"CPUExecutionProvider": 1.0}})
    'CPU 100%'
    """
    if not placement:
        return ""
    shares: Mapping[str, float] = placement.get("time_share") or {}
    if not shares:
        nodes: Mapping[str, int] = placement.get("nodes") or {}
        total = sum(nodes.values())
        shares = {ep: count / total for ep, count in nodes.items()} if total else {}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    text = ", ".join(f"{ep.removesuffix('ExecutionProvider')} {percent(share)}" for ep, share in ordered if share)
    return f"{text} (sources disagree)" if text and placement.get("agree") is False else text


def marks(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a reader must know before trusting a cell's numbers: shown with its status, in every writer."""
    found: list[str] = []
    timing = cell.get("timing") or {}
    if timing.get("trust") in ("noisy", "contended"):
        found.append(str(timing["trust"]))
    if cell.get("random"):
        found.append("random data")
    if (cell.get("artefact") or {}).get("no_op"):
        found.append("no-op")
    if is_correct(cell["status"]) and cell.get("parity") and not timing and "no-op" not in found:
        found.append("not timed")
    found += _tier_marks(cell)
    return tuple(found)


def _tier_marks(cell: Mapping[str, Any]) -> list[str]:
    """Name the required CPU tiers on which a correct cell is wrong or not known."""
    tiers = cell.get("tiers")
    if not tiers or not is_correct(cell["status"]):
        return []
    required = tiers["required"]
    wrong = [name for name in tiers["wrong"] if name in required]
    unknown = [name for name in tiers["unknown"] if name in required]
    return [f"not on {', '.join(wrong)}"] * bool(wrong) + [f"unknown on {', '.join(unknown)}"] * bool(unknown)


def telling_reasons(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a cell's reasons, the one that tells its status from ``pass`` first.

    A correct cell's reasons begin with what was found good; why it does not pass follows.

    >>> telling_reasons({"status": "slower", "reasons": ["Correct over 12 samples.", "It runs at 0.6 times …"]})[0]
    'It runs at 0.6 times …'
    """
    reasons = tuple(map(str, cell.get("reasons") or ()))
    if is_correct(cell["status"]) and cell["status"] != "pass":
        return (*reasons[1:], *reasons[:1])
    return reasons


def device_text(device: Mapping[str, Any] | None) -> str:
    """Say what the cells ran on: CPU model, cores, memory and GPUs."""
    if not device:
        return ""
    parts = [str(device.get("cpu_model") or device.get("name") or "")]
    if cores := device.get("cores"):
        parts.append(f"{cores} core{'s' if cores != 1 else ''}")
    if memory := device.get("memory"):
        parts.append(size(memory))
    gpus = device.get("gpus") or ()
    parts += [str(gpu.get("name", "")) if isinstance(gpu, Mapping) else str(gpu) for gpu in gpus]
    return ", ".join(part for part in parts if part)


def build_lines(report: Mapping[str, Any]) -> list[str]:
    """Say what was built for the run, a line for each source target.

    >>> build_lines({"builds": {"fast": {"artifact": "a.whl", "bytes": 2_000_000, "proof": []}}})
    ['fast: a.whl, 2.0 MB']
    """
    lines = []
    for target, build in (report.get("builds") or {}).items():
        parts = [f"{target}: {build['artifact']}", size(build["bytes"])]
        if build.get("operators"):
            parts.append(f"{build['operators']} operators only")
        if saved := build.get("saved"):
            parts.append(f"{size(saved['bytes'])} ({saved['share']:.0%}) less than {saved['than']}")
        lines.append(", ".join(part for part in parts if part))
        lines += [f"{target}: {line}" for line in build.get("proof") or ()]
    return lines


def summary_text(report: Mapping[str, Any]) -> str:
    """Say how many cells have which status, best first.

    >>> summary_text({"cells": [], "summary": {"slower": 1, "pass": 3}})
    '4 cells: 3 pass, 1 slower'
    """
    tally: Mapping[str, int] = report.get("summary") or {}
    total = sum(tally.values())
    parts = [f"{tally[status]} {status}" for status in STATUSES if tally.get(status)]
    return f"{total} cell{'s' if total != 1 else ''}" + (": " + ", ".join(parts) if parts else "")


def combination_text(answer: Mapping[str, Any]) -> str:
    """Say the best combination of a model (an entry of the report's ``best``): recipe, runtime and EP.

    >>> combination_text({"cell": "m/none@stock:cpu/here", "recipe": "none", "target": "stock", "ep": "cpu"})
    'the unoptimized model on stock:cpu'
    """
    if not answer["cell"]:
        return "nothing"
    what = "the unoptimized model" if answer["recipe"] == "none" else answer["recipe"]
    return f"{what} on {answer['target']}:{answer['ep']}"


def best_text(answer: Mapping[str, Any], cell: Mapping[str, Any] | None) -> str:
    """Say the numbers of a model's best combination: its speed against the matrix's baseline, and its size.

    :param cell: the cell that ships.
    """
    if not answer["cell"]:
        return ""
    figure = answer.get("speed")
    said = speed(figure)
    if figure is None:
        said = "speed against the baseline not known"
    elif said == "baseline":
        said = "the baseline itself"
    else:
        said = f"{said} against the baseline" if TIMES in said else f"speed against the baseline: {said}"
    return ", ".join(filter(None, (said, size((cell or {}).get("bytes")))))


def expectation_text(cell: Mapping[str, Any]) -> str:
    """Say what is expected of a cell, by which file, why, and how its verdict compares.

    >>> expectation_text({"expectation": {"status": ["failed"], "source": "m.toml", "reason": "", "outcome": "better"}})
    'failed (m.toml): better'
    """
    expected = cell.get("expectation")
    if not expected:
        return ""
    outcomes = {"expected": "as expected", "changed": "another status, neither better nor worse"}
    told = outcomes.get(expected["outcome"], expected["outcome"])
    why = f"; {expected['reason']}" if expected.get("reason") else ""
    return f"{' or '.join(expected['status'])} ({expected['source']}{why}): {told}"


def exit_code_text(report: Mapping[str, Any]) -> str:
    """Say a run's exit code and what it means.

    >>> exit_code_text({"exit_code": 4})
    'exit code 4: the environment lacks something'
    """
    code, found = report.get("exit_code"), report.get("expectations") or {}
    problems = len(found.get("problems", ()))
    meanings = {
        0: "as expected" if found.get("files") else "every model has something correct to ship, and nothing broke",
        1: f"{problems} verdict{' is' if problems == 1 else 's are'} not as expected",
        3: "a build failed",
        4: "the environment lacks something",
    }
    if found.get("strict"):
        meanings |= {0: "every cell passes", 1: f"{problems} cell{'' if problems == 1 else 's'} without pass"}
    return f"exit code {code}" + (f": {meanings[code]}" if code in meanings and (found or code != 1) else "")


def tuning_facts(artefact: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Say how an artefact's session was tuned: named lines, none where it was not.

    What is to be pasted stands alone on its line.

    >>> tuning_facts({"session": {"intra_op_threads": 1}})
    [('loaded with', 'intra_op_threads: 1')]
    """
    artefact = artefact or {}
    settings = {**(artefact.get("session") or {}), **(artefact.get("ep_options") or {})}
    found = [("loaded with", ", ".join(f"{name}: {value}" for name, value in settings.items()))] if settings else []
    told = (artefact.get("changed") or {}).get(TUNING)
    if not told:
        return found
    noise = f"noise floor {spread(told.get('noise'))}"
    against = f", {_ratio(told)} times the default's speed" if told.get("ratio") is not None else ""
    found.append(("tuned to", f"{told.get('chosen')} (best: {told.get('best')}{against}; {noise})"))
    for row in told.get("tried") or ():
        said = row.get("problem") or f"{_ratio(row)} against {row.get('against')}"
        found.append(("tried", f"{row.get('setting')}: {row.get('outcome')}, {said}"))
    found += [("not tried", f"{name}: {why}") for name, why in (told.get("skipped") or {}).items()]
    places = {"recipe": "for the recipe", "ep": "for the target's EP"}
    return found + [(places.get(place, place), line) for place, line in (told.get("paste") or {}).items()]


def _ratio(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['ratio']:.2f} [{numbers['low']:.2f}, {numbers['high']:.2f}]"
