"""On which CPU tiers an artifact with 8-bit integer products is correct: from facts to tiers and sentences.

What a cell measured holds for this machine's tier, and for every tier with the same arithmetic
(:mod:`ortforge.portable.cpu_tiers`). The others are known where no product can differ, or where the ``tiers`` step
computed the outputs with the other arithmetic; those are judged by the limits that every cell is judged by.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ortforge.portable.comparison.limits import exceeded, metric_errors
from ortforge.portable.cpu_tiers import EXACT, SATURATING, TIERS, WIDENING
from ortforge.portable.statuses import is_correct
from ortforge.verdict.judge import Verdict
from ortforge.verdict.tolerance import Tolerance

__all__ = ["TierFacts", "TierKnowledge", "with_tiers"]

PRECISION: Final = "session.x64quantprecision"


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What is known of an artifact's integer products.

    :param result: of the ``tiers`` step (docs/formats.md), or ``{}`` where it failed; ``problem`` says why.
    :param here: this machine's tier, ``""`` where it is not known.
    :param correct_here: whether the outputs that the cell measured are within the limits.
    :param is_reference: the artifact is the model as it came, which gave the reference on this machine, too.
    :param required: the model's ``tiers``. :param explicit: whether the matrix file lists them.
    """

    result: Mapping[str, Any]
    here: str
    correct_here: bool
    required: tuple[str, ...]
    explicit: bool
    tolerance: Tolerance
    problem: str = ""
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class TierKnowledge:
    """On which tiers an artifact is known to be correct, known to be wrong, and not known; and why, in sentences."""

    correct: tuple[str, ...]
    wrong: tuple[str, ...]
    unknown: tuple[str, ...]
    required: tuple[str, ...]
    sentences: tuple[str, ...]
    remedies: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report's ``tiers`` of a cell."""
        return {
            "correct": list(self.correct),
            "wrong": list(self.wrong),
            "unknown": list(self.unknown),
            "required": list(self.required),
            "sentences": list(self.sentences),
            "remedies": list(self.remedies),
        }


def with_tiers(verdict: Verdict, facts: TierFacts) -> tuple[Verdict, TierKnowledge | None]:
    """Return a verdict that states the tiers, and what is known of them; unchanged without 8-bit integer products.

    A correct cell that is wrong on a tier stays correct, with its tiers named, unless the matrix file lists that tier:
    then it is ``inaccurate``. One that is not known on a listed tier is ``unproven``.
    """
    if not facts.result.get("products") and not facts.problem:
        return verdict, None
    if _misled(facts):
        known = _known(replace(facts, correct_here=False, result={**facts.result, "parity": None}), [])
        return Verdict("inaccurate", (*known.sentences, *known.remedies), (*verdict.reasons, *verdict.notes)), known
    known = _known(facts, _errors(facts))
    if not is_correct(verdict.status):
        # Of a cell that is wrong or unproven, tiers matter only where it is right on another one.
        if verdict.status != "inaccurate" or not known.correct:
            return verdict, None
        return Verdict(verdict.status, verdict.reasons, (*verdict.notes, *known.sentences)), known
    wrong, unknown = _within(known.wrong, facts.required), _within(known.unknown, facts.required)
    status = verdict.status
    if facts.explicit and wrong:
        status = "inaccurate"
    elif facts.explicit and unknown:
        status = "unproven"
    if status != verdict.status:
        worst_first = sorted(known.sentences, key=lambda text: not text.startswith(("Wrong on", "Not known on")))
        return Verdict(status, (*worst_first, *known.remedies), (*verdict.reasons, *verdict.notes)), known
    if wrong or unknown:
        return Verdict(status, (*verdict.reasons, *known.sentences, *known.remedies), verdict.notes), known
    if status == "pass":
        return Verdict(status, (*verdict.reasons, *known.sentences), verdict.notes), known
    return Verdict(status, verdict.reasons, (*verdict.notes, *known.sentences)), known


def _misled(facts: TierFacts) -> bool:
    """Return whether the reference itself saturated: a model that came quantized, on a CPU whose kernels do that.

    It equals its reference then, and the outputs computed exactly do not.
    """
    host = TIERS.get(facts.here)
    saturates = host is not None and host.arithmetic == SATURATING
    exactly = facts.result.get("emulated") == EXACT
    return facts.is_reference and saturates and exactly and facts.correct_here and bool(_errors(facts))


def _within(names: Sequence[str], required: Collection[str]) -> list[str]:
    return [name for name in names if name in required]


def _known(facts: TierFacts, errors: list[str] | None) -> TierKnowledge:
    found = {name: _of(name, facts, errors) for name in TIERS}
    groups = {answer: tuple(name for name, it in found.items() if it is answer) for answer in (True, False, None)}
    sentences = []
    if groups[True]:
        sentences.append(f"Known to be correct on: {_titles(groups[True])}.")
    if groups[False]:
        sentences.append(_wrong(groups[False], facts, errors))
    if groups[None]:
        sentences.append(_unknown(groups[None], facts))
    if sentences and (how := _how(facts)):
        sentences.append(how)
    wrong = _within(groups[False], facts.required)
    remedies = _remedies(facts) if any(TIERS[name].arithmetic == SATURATING for name in wrong) else ()
    return TierKnowledge(groups[True], groups[False], groups[None], facts.required, tuple(sentences), remedies)


def _errors(facts: TierFacts) -> list[str] | None:
    """Return why the computed outputs are wrong, ``[]`` where they are right, ``None`` where there are none."""
    parity = facts.result.get("parity")
    if not parity:
        return None
    needed, _ = metric_errors(parity, facts.tolerance)
    sentences = [*parity["problems"], *exceeded(parity, facts.tolerance), *needed]
    numbers = facts.result.get("numbers") or ()

    def original(match: re.Match[str]) -> str:
        place = int(match[1])
        return f"sample {numbers[place] if place < len(numbers) else place}"

    # The sentences count the samples that were computed; the reader counts all of them.
    return [re.sub(r"\bsample (\d+)\b", original, text) for text in sentences]


def _of(name: str, facts: TierFacts, errors: list[str] | None) -> bool | None:
    """Return whether the artifact is correct on a tier, ``None`` where that is not known."""
    tier, result = TIERS[name], facts.result
    if name == facts.here:
        return facts.correct_here
    if facts.problem or not result.get("cpu_ep", True):
        return None
    wraps = bool(result.get("wraps"))
    if tier.arithmetic == WIDENING and wraps:
        return None
    if not result["unsafe"]:
        return facts.correct_here
    host = TIERS.get(facts.here)
    if host is None or result["unknown"] or (host.arithmetic == WIDENING and wraps):
        return None
    mine = SATURATING if tier.arithmetic == SATURATING else EXACT
    theirs = SATURATING if host.arithmetic == SATURATING else EXACT
    if mine == theirs:
        return facts.correct_here
    if result.get("signed") and host.machine != tier.machine:
        return None  # on x86-64 ORT turns signed activations into unsigned ones; this graph still has them
    if result.get("emulated") != mine or errors is None:
        return None
    return not errors


def _titles(names: Sequence[str]) -> str:
    return ", ".join(TIERS[name].title for name in names)


def _wrong(names: Sequence[str], facts: TierFacts, errors: list[str] | None) -> str:
    if facts.here in names:
        return f"Wrong on: {_titles(names)} (measured here)."
    result = facts.result
    saturated, sums = int(result.get("saturated", 0)), int(result.get("sums", 0))
    share = f"{saturated:,} of {sums:,} pair sums ({saturated / sums:.2%}) saturate" if sums else ""
    reason = errors[0] if errors else ""
    why = ""
    if any(TIERS[name].arithmetic == SATURATING for name in names) and share:
        why = f"These CPUs add pairs of u8 x s8 products in saturating 16-bit integers, and {share}. "
    return f"Wrong on: {_titles(names)}. {why}{reason}".rstrip()


def _unknown(names: Sequence[str], facts: TierFacts) -> str:
    text = f"Not known on: {_titles(names)}"
    if facts.problem:
        return f"{text}. The tiers could not be computed: {facts.problem.rstrip('.')}."
    result = facts.result
    if not result.get("cpu_ep", True):
        return f"{text}. The EP computes integer products with its own kernels, whose arithmetic is not modelled."
    if result["unknown"]:
        parts = [" ".join(filter(None, (one["op"], one["node"]))) for one in result["unknown"][:3]]
        where = ", ".join(part for part in parts if part)
        return f"{text}. {_capital(result['unknown'][0]['why'])}" + (f" ({where})." if where else ".")
    if result.get("wraps"):
        return f"{text}. Weights of -128 can wrap in its 16-bit sums; symmetric quantization avoids them."
    return f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _how(facts: TierFacts) -> str:
    """Say what the knowledge rests on."""
    result = facts.result
    if facts.problem or not result.get("cpu_ep", True) or not result.get("products"):
        return ""
    here = f"this machine ({TIERS[facts.here].title})" if facts.here else "this machine, whose tier is not known"
    if not result["unsafe"]:
        return f"Measured on {here}; no integer product of the file can saturate."
    if not result.get("emulated"):
        return f"Measured on {here}."
    samples, of = result["samples"], result.get("of", result["samples"])
    count = f"{samples} samples" if samples == of else f"{samples} of {of} samples"
    return f"Measured on {here}; the other arithmetic was computed over {count}."


def _remedies(facts: TierFacts) -> tuple[str, ...]:
    result, found = facts.result, []
    if result.get("with_precision") == 0:
        found.append(
            f'Tried: with the session option "{PRECISION}" = "1" no product of this file saturates (ORT multiplies its '
            f'weights as u8, more slowly). Set session = {{ config = {{ "{PRECISION}" = "1" }} }} in the recipe.'
        )
    elif 0 < result.get("with_precision", 0) < result["unsafe"]:
        left = f"{result['with_precision']} of {result['unsafe']}"
        found.append(f'Tried: with the session option "{PRECISION}" = "1" {left} products can still saturate.')
    # Where the option changes nothing, this ORT may apply it only on CPUs that need it: nothing is known then.
    found.append(
        "Not tried: quantize with reduce_range = true (7-bit weights, whose pairs reach 2 x 255 x 64 = 32,640 at most) "
        'or weight_type = "QUInt8" (u8 x u8). Signed activations help with format = "QOperator" only: of a QDQ model '
        "ORT makes them unsigned again on x86-64."
    )
    return tuple(found)
