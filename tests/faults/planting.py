"""What a planted fault and a harmless change are, and how their verdict is obtained.

Every output comes from ONNX Runtime on a real model. The reference is the model on the CPU EP with graph optimizations
off. A candidate is what a changed model, a changed session or a defective caller gives for the same inputs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from expected_reasons import expected

from ortforge.portable.comparison.parity import compare
from ortforge.portable.statuses import CORRECT
from ortforge.verdict.judge import Facts, Verdict, judge
from ortforge.worker.tensors import flatten

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
Outputs = list[Sample]

NO_OPTIMIZATION = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
ALL_OPTIMIZATIONS = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def options(level: ort.GraphOptimizationLevel = ALL_OPTIMIZATIONS, *, threads: int = 1) -> ort.SessionOptions:
    """Return session options with a graph optimization level and a number of threads; ORT's messages are silenced."""
    made = ort.SessionOptions()
    made.graph_optimization_level = level
    made.intra_op_num_threads = threads
    made.log_severity_level = 4
    return made


def run(
    model: onnx.ModelProto | bytes | Path, feeds: Sequence[Sample], session: ort.SessionOptions | None = None
) -> Outputs:
    """Run a model on the CPU EP; return one mapping from output name to array per sample."""
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    live = ort.InferenceSession(data, session or options(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in live.get_outputs()]
    results = []
    for feed in feeds:
        sample: Sample = {}
        for name, value in zip(names, live.run(None, feed), strict=True):
            sample |= flatten(name, value)
        results.append(sample)
    return results


@dataclass
class Subject:
    """A real model with inputs; ``shapes`` describes its outputs for the table in the documentation."""

    name: str
    model: onnx.ModelProto
    feeds: list[Sample]

    @cached_property
    def reference(self) -> Outputs:
        """The outputs of the CPU EP with graph optimizations off."""
        return run(self.model, self.feeds, options(NO_OPTIMIZATION))

    @cached_property
    def optimized(self) -> Outputs:
        """The outputs with ONNX Runtime's default optimizations: correct ones, which faults in outputs start from."""
        return run(self.data, self.feeds)

    @cached_property
    def data(self) -> bytes:
        """The serialized model."""
        return self.model.SerializeToString()


Candidate = Callable[[Subject], Outputs]


@dataclass(frozen=True)
class Fault:
    """A defect that must not pass.

    :param subject: the model that it is planted in. :param name: unique together with the subject.
    :param description: what is wrong, for the table in the documentation.
    :param output: the output that a reason must name; empty where no single output is at fault.
    :param candidate: returns the defective outputs.
    :param statuses: the statuses that count as detected.
    """

    subject: str
    name: str
    description: str
    output: str
    candidate: Candidate
    family: str
    statuses: frozenset[str] = frozenset({"inaccurate"})

    @property
    def id(self) -> str:
        """The name by which tests and the documentation know it."""
        return f"{self.subject}-{self.name}"

    def is_named(self, verdict: Verdict) -> bool:
        """Say whether one reason names the output, and says what ``expected_reasons.py`` has for this fault."""
        reason = expected(self.id)
        return any(
            (not self.output or f'"{self.output}"' in sentence) and re.search(reason, sentence, re.IGNORECASE)
            for sentence in verdict.reasons
        )


@dataclass(frozen=True)
class Harmless:
    """A change that must not be called inaccurate."""

    subject: str
    name: str
    description: str
    candidate: Candidate
    statuses: frozenset[str] = field(default=CORRECT)

    @property
    def id(self) -> str:
        """The name by which tests and the documentation know it."""
        return f"{self.subject}-{self.name}"


FAULTS: list[Fault] = []
HARMLESS: list[Harmless] = []


def parity_of(subject: Subject, candidate: Candidate) -> dict[str, Any]:
    """Compare a candidate with the reference, with the default settings."""
    return compare(subject.reference, candidate(subject))


def verdict_of(subject: Subject, candidate: Candidate) -> Verdict:
    """Return the verdict with the default tolerances, as for the baseline cell: its speed is not judged."""
    return judge(Facts(parity=parity_of(subject, candidate), is_baseline=True))


# Ways to plant


def in_outputs(change: Callable[[Outputs], Outputs | None]) -> Candidate:
    """Change the outputs of a correct run, as a defective kernel, binding or post-processing does.

    ``change`` gets copies that it may modify; it returns the outputs, or ``None`` when it modified them in place.
    """

    def candidate(subject: Subject) -> Outputs:
        outputs = copy.deepcopy(subject.optimized)
        changed = change(outputs)
        return outputs if changed is None else changed

    return candidate


def in_array(output: str, change: Callable[[Array], Array | None]) -> Candidate:
    """Change one output of each sample, in place or by returning the new array."""

    def each(outputs: Outputs) -> None:
        for sample in outputs:
            array = np.array(sample[output])
            changed = change(array)
            sample[output] = array if changed is None else changed

    return in_outputs(each)


def in_model(change: Callable[[onnx.ModelProto], onnx.ModelProto | None]) -> Candidate:
    """Change the model and run it with ONNX Runtime's default optimizations."""

    def candidate(subject: Subject) -> Outputs:
        model = onnx.ModelProto()
        model.CopyFrom(subject.model)
        changed = change(model)
        return run(model if changed is None else changed, subject.feeds)

    return candidate


def in_feeds(change: Callable[[list[Sample]], list[Sample]]) -> Candidate:
    """Change the inputs on their way to the model, as a defective caller or a fused preprocessing step does."""
    return lambda subject: run(subject.data, change(copy.deepcopy(subject.feeds)))


def fault(
    subject: str,
    name: str,
    description: str,
    candidate: Candidate,
    *,
    output: str = "",
    family: str = "outputs",
    statuses: Sequence[str] = ("inaccurate",),
) -> None:
    """Add a fault to the catalogue."""
    FAULTS.append(Fault(subject, name, description, output, candidate, family, frozenset(statuses)))


def harmless(
    subject: str, name: str, description: str, candidate: Candidate, *, statuses: Sequence[str] = tuple(CORRECT)
) -> None:
    """Add a harmless change to the catalogue."""
    HARMLESS.append(Harmless(subject, name, description, candidate, frozenset(statuses)))
