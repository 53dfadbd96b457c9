"""operators: what the models of a matrix need, as the list that ORT's build takes to leave out all others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file
from ortforge.engine.work import Work, failed_job
from ortforge.runtime.supervisor import Limits, run_job
from ortforge.store.hashing import digest_json

_LIMITS = Limits(import_s=120, load_s=1800, run_s=1800, memory=16 << 30)


def run(task: Task, work: Work) -> TaskOutcome:
    """Read them in a runtime of the same version that has all operators; the identity is the list's digest."""
    (_, _, tools), *models = task.inputs
    paths = [str(model_file(work.store.objects.get(digest))) for _, digest, _ in models]
    with work.store.objects.scratch() as scratch:
        outcome = run_job(
            work.interpreter(tools["environment"]),
            {"op": "operators", "models": sorted(set(paths))},
            limits=_LIMITS,
            workdir=scratch,
            cancel=work.cancel,
        )
    if outcome.status != "ok":
        return failed_job(outcome, "the operators of the models cannot be found out")
    text = configuration(tuple(entry) for entry in outcome.result["operators"])
    facts = {"text": text, "operators": len(outcome.result["operators"]), "models": len(set(paths))}
    return TaskOutcome("ok", digest_json(text), facts)


def configuration(operators: Iterable[tuple[str, int, str]]) -> str:
    """Return the list as ORT's build reads it: ``domain;opset;operator,operator``, a line for each domain and opset.

    Form: ORT's "Reduced operator config file".

    >>> print(configuration([("ai.onnx", 13, "Add"), ("ai.onnx", 13, "Abs"), ("com.microsoft", 1, "Gelu")]), end="")
    ai.onnx;13;Abs,Add
    com.microsoft;1;Gelu
    """
    lines: dict[tuple[str, int], set[str]] = defaultdict(set)
    for domain, opset, operator in operators:
        lines[domain, opset].add(operator)
    return "".join(f"{domain};{opset};{','.join(sorted(names))}\n" for (domain, opset), names in sorted(lines.items()))
