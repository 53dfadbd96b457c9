"""Error rates of timings that stop when they are decided, in simulation.

    python benchmarks/timing_errors.py [--trials 400] [--json FILE]

Simulated times have the properties of a shared machine: log-normal noise on each turn, an offset for each process, one
turn in twenty with a spike, and a slow drift within each round. The planted ratio is 1 (A/A), on the margin, or beyond
it. A trial looks at its rounds as a timing step does (``ortforge.verdict.timing.is_decided``), so the rates contain
the repeated looks. ``wrong`` counts answers that contradict the planted ratio:

* ``faster`` where the ratio is at most 1.03, and ``slower`` where it is at least 1/1.03;
* ``same`` where it lies outside of 1/1.03 to 1.03.

The exit code is 1 when more than 5 % of any row are wrong. ``fixed`` is the interval that three rounds of the same
total length gave before timings could stop.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

from ortforge.verdict.ratios import MARGIN, outcome
from ortforge.verdict.timing import is_decided, own_noise, paired

MAX_WRONG = 0.05
MAX_ROUNDS = 5
BUDGET_PAIRS = 120
"""Pairs of a whole timing step: 4 s of pairs of 2 x 10 ms, without warm-up and messages."""
CONDITIONS = {
    "quiet": {"noise": 0.01, "process": 0.003, "drift": 0.0},
    "usual": {"noise": 0.02, "process": 0.006, "drift": 0.005},
    "noisy": {"noise": 0.05, "process": 0.02, "drift": 0.02},
}
RATIOS = (1.0, 1.01, 1 + MARGIN, 1 / (1 + MARGIN), 1.04, 1 / 1.04, 1.06, 1.10, 1 / 1.10, 1.5)

Round = list[tuple[float, float]]


def simulated_round(
    random: np.random.Generator, ratio: float, pairs: int, *, noise: float, process: float, drift: float
) -> Round:
    """Return the pairs of one round, in nanoseconds."""
    offsets = random.normal(0.0, process / math.sqrt(2), size=2)
    logs = random.normal(0.0, noise / math.sqrt(2), size=(pairs, 2)) + offsets + [math.log(ratio), 0.0]
    logs += (random.random((pairs, 2)) < 0.05) * random.uniform(0.2, 1.5, size=(pairs, 2))
    logs[:, 0] += random.normal(0.0, drift) * np.linspace(-0.5, 0.5, pairs)
    return [(float(first), float(second)) for first, second in 5e6 * np.exp(logs)]


def trial(random: np.random.Generator, ratio: float, **condition: float) -> tuple[str, int, float]:
    """Return the answer of one simulated timing, the rounds that it took, and half the width of its interval."""
    rounds: list[Round] = []
    while not is_decided(rounds, MAX_ROUNDS):
        rounds.append(simulated_round(random, ratio, BUDGET_PAIRS // MAX_ROUNDS, **condition))
    found = paired(rounds)
    return outcome(found, own_noise(rounds)), len(rounds), _half_width(found)


def _half_width(found: dict[str, float]) -> float:
    return (found["high"] - found["low"]) / 2 / found["ratio"]


def is_wrong(answer: str, ratio: float) -> bool:
    """Return whether an answer contradicts the planted ratio."""
    beyond = abs(math.log(ratio)) > math.log1p(MARGIN) * (1 + 1e-9)
    return {"same": beyond, "faster": not (beyond and ratio > 1), "slower": not (beyond and ratio < 1)}.get(
        answer, False
    )


def main() -> int:
    """Run the simulations and print one row for each condition and planted ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    print("condition ratio    faster  same slower undecided  wrong  rounds  half-width  fixed")
    for name, condition in CONDITIONS.items():
        for ratio in RATIOS:
            random = np.random.default_rng([round(1e4 * ratio), *name.encode()])
            found = [trial(random, ratio, **condition) for _ in range(given.trials)]
            shares = {answer: sum(one[0] == answer for one in found) / len(found) for answer in ANSWERS}
            wrong = sum(is_wrong(one[0], ratio) for one in found) / len(found)
            fixed = [
                _half_width(paired([simulated_round(random, ratio, BUDGET_PAIRS // 3, **condition) for _ in range(3)]))
                for _ in range(min(100, given.trials))
            ]
            row = {"condition": name, "ratio": ratio, **shares, "wrong": wrong}
            row |= {"rounds": float(np.mean([one[1] for one in found]))}
            row |= {"half_width": float(np.median([one[2] for one in found])), "fixed": float(np.median(fixed))}
            rows.append(row)
            text = " ".join(f"{shares[answer]:6.1%}" for answer in ANSWERS)
            print(
                f"{name:9} {ratio:.4f} {text} {wrong:9.1%} {row['rounds']:7.2f} {row['half_width']:10.2%} "
                f"{row['fixed']:7.2%}",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(max(row["wrong"] for row in rows) > MAX_WRONG)


ANSWERS = ("faster", "same", "slower", "undecided")

if __name__ == "__main__":
    sys.exit(main())
