"""operators: what the models of a matrix need, as the list that ORT's build takes to leave out all others.

The model that proves a wheel runs on it, too, so its operators are among them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from ortforge.api import Task, TaskOutcome
from ortforge.build import proof
from ortforge.engine.artefacts import model_file
from ortforge.engine.work import Work, failed_job
from ortforge.runtime.supervisor import Limits, run_job
from ortforge.store.hashing import digest_json

_LIMITS = Limits(import_s=120, load_s=1800, run_s=1800, memory=16 << 30)

_CPP: Final = {
    "BFLOAT16": "BFloat16",
    "BOOL": "bool",
    "DOUBLE": "double",
    "FLOAT": "float",
    "FLOAT16": "MLFloat16",
    "FLOAT8E4M3FN": "Float8E4M3FN",
    "FLOAT8E4M3FNUZ": "Float8E4M3FNUZ",
    "FLOAT8E5M2": "Float8E5M2",
    "FLOAT8E5M2FNUZ": "Float8E5M2FNUZ",
    "INT16": "int16_t",
    "INT32": "int32_t",
    "INT64": "int64_t",
    "INT8": "int8_t",
    "STRING": "std::string",
    "UINT16": "uint16_t",
    "UINT32": "uint32_t",
    "UINT64": "uint64_t",
    "UINT8": "uint8_t",
}
"""Types as ORT's type reduction names them; 4-bit and complex ones are not its business."""

_ALWAYS: Final = frozenset({"BOOL", "FLOAT", "INT32", "INT64"})
"""Types that kernels use for shapes, indices and conditions, whatever the models say."""


def run(task: Task, work: Work) -> TaskOutcome:
    """Read them in a runtime of the same version that has all operators; the identity is the list's digest."""
    (_, _, tools), *models = task.inputs
    paths = {str(model_file(work.store.objects.get(digest))) for _, digest, _ in models}
    with work.store.objects.scratch() as scratch:
        (scratch / "proof").mkdir()
        shown, _ = proof.write(scratch / "proof")
        outcome = run_job(
            work.interpreter(tools["environment"]),
            {"op": "operators", "models": [*sorted(paths), str(shown)]},
            limits=_LIMITS,
            workdir=scratch,
            cancel=work.cancel,
        )
    if outcome.status != "ok":
        return failed_job(outcome, "the operators of the models cannot be found out")
    types = outcome.result["types"]
    text = configuration((tuple(entry) for entry in outcome.result["operators"]), types)
    facts = {"text": text, "operators": len(outcome.result["operators"]), "types": types, "models": len(paths)}
    return TaskOutcome("ok", digest_json(text), facts)


def configuration(operators: Iterable[tuple[str, int, str]], types: Iterable[str]) -> str:
    """Return the list as ORT's build reads it: ``domain;opset;operator,operator``, a line for each domain and opset.

    Form: ORT's "Reduced operator config file". Its first line is for ``--enable_reduced_operator_type_support``:
    kernels are made for these types only.

    >>> print(
    ...     configuration([("ai.onnx", 13, "Add"), ("ai.onnx", 13, "Abs"), ("com.microsoft", 1, "Gelu")], ["INT8"]),
    ...     end="",
    ... )
    !globally_allowed_types;bool,float,int32_t,int64_t,int8_t
    ai.onnx;13;Abs,Add
    com.microsoft;1;Gelu
    """
    allowed = sorted(_CPP[name] for name in _ALWAYS | set(types) if name in _CPP)
    lines: dict[tuple[str, int], set[str]] = defaultdict(set)
    for domain, opset, operator in operators:
        lines[domain, opset].add(operator)
    first = f"!globally_allowed_types;{','.join(allowed)}\n"
    return first + "".join(
        f"{domain};{opset};{','.join(sorted(names))}\n" for (domain, opset), names in sorted(lines.items())
    )
