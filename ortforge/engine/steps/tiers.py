"""tiers: what a cell's 8-bit integer products give on CPUs whose kernels add them in another way.

A model file without any operator that has such products is answered from its bytes, without a worker. Otherwise a
worker computes the outputs with the other arithmetic, and they are compared with the reference like a cell's.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import model_file, session_for
from ortforge.engine.work import Work, failed_job, limits_of
from ortforge.portable.cpu_tiers import EXACT, SATURATING, TIERS
from ortforge.runtime.supervisor import run_job
from ortforge.store.hashing import digest_json

__all__ = ["OPERATORS", "integer_operators", "run"]

OPERATORS: Final = frozenset(
    {
        "ConvInteger", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
        "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
        "QMoE", "QOrderedAttention", "QOrderedLongformerAttention", "QOrderedMatMul", "QuantizeLinear",
    }
)  # fmt: skip
"""All operators from which 8-bit integer products come, those that ORT fuses into products included."""

WEIGHTS_ALONE: Final = frozenset({"DequantizeLinear", "MatMulNBits"})
"""Operators that quantize weights alone: by themselves they make no product of 8-bit activations."""

OP_TYPE: Final = b"\x22"
"""How ``NodeProto.op_type`` begins in a file: field 4, length-delimited (onnx.proto, protobuf's wire format)."""


def integer_operators(model: Path) -> set[str]:
    """Return the operators of :data:`OPERATORS` that a model file has; in the ORT format, those that it may have."""
    if not model.stat().st_size:
        return set()
    framed = model.suffix != ".ort"
    patterns = {name: (OP_TYPE + bytes([len(name)]) if framed else b"") + name.encode() for name in OPERATORS}
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {name for name, pattern in patterns.items() if content.find(pattern) >= 0}


def run(task: Task, work: Work) -> TaskOutcome:
    """Compute the outputs of the other arithmetic; the identity is the digest of the numbers."""
    (_, model, artefact), (_, _, tools), (_, data, _), (_, reference, _) = task.inputs
    objects, how = work.store.objects, task.parameters
    path = model_file(objects.get(model))
    operators = integer_operators(path)
    if not operators or (not how["cpu_ep"] and operators <= WEIGHTS_ALONE):
        return _done({"products": 0})
    if not how["cpu_ep"]:
        return _done({"products": 1, "unsafe": 1, "unknown": [], "cpu_ep": False})
    if path.suffix == ".ort":
        unread = {"node": "", "op": "", "why": "a model in the ORT format cannot be taken apart"}
        return _done({"products": 1, "unsafe": 1, "unknown": [unread]})
    here = TIERS.get(how["here"])
    emulate = EXACT if here is not None and here.arithmetic == SATURATING else SATURATING
    with objects.scratch() as scratch:
        output = scratch / "outputs"
        jobdir = scratch / "job"
        jobdir.mkdir()
        job = {
            "op": "tiers",
            "model": str(path),
            "samples": str(objects.get(data)),
            "session": session_for(how["session"], artefact),
            "output": str(output),
            "emulate": emulate,
        }
        interpreter = work.interpreter(tools["environment"], how.get("environment"))
        outcome = run_job(interpreter, job, limits=limits_of(task.context), workdir=jobdir, cancel=work.cancel)
        if outcome.status != "ok":
            return failed_job(outcome)
        found = dict(outcome.result)
        found.pop("seconds", None)
        if found.get("samples"):
            found["parity"] = _compared(task, work, output, reference, data, found["numbers"])
    return TaskOutcome("ok", digest_json(found), found, log=outcome.log)


def _compared(
    task: Task, work: Work, output: Path, reference: str, data: str, numbers: Sequence[int]
) -> dict[str, Any]:
    """Compare the computed outputs with the reference's for the same samples."""
    # numpy is imported with these, and only when something is really compared.
    from ortforge.portable.comparison.parity import compare
    from ortforge.worker.samples import Samples

    objects = work.store.objects
    labels = Samples(objects.get(data)).labels
    expected = Samples(objects.get(reference))
    return compare(
        (expected[number] for number in numbers),
        Samples(output),
        labels=[labels[number] for number in numbers] if labels else labels,
        metrics={name: work.plugins.metrics[name] for name in task.parameters["tasks"]},
        roles=task.parameters["roles"],
    )


def _done(found: Mapping[str, Any]) -> TaskOutcome:
    return TaskOutcome("ok", digest_json(found), dict(found))
