"""``mixed-precision``: float16 wherever the model's tolerance allows it on the cell's EP, float32 where it does not.

The converters are those of the pass ``float16``, the second one where the first makes a model that does not load; which
nodes stay is found by trying (``mixed_search.py``). Inputs and outputs stay float32, so that a cell's data fits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import to_float16
from ._half import mixed_search
from ._measuring import closeness
from ._models import model_file, onnx_graph, outlines

if TYPE_CHECKING:
    from ortforge.api import Pass, PassJob, PassUse

WITHOUT_HALF: Final[Mapping[str, str]] = {
    "cpu": "the CPU EP computes float16 in float32 between casts on most CPUs: no answer shows what a node loses, and "
    "nothing gets faster",
    "dnnl": "oneDNN's EP takes float32 and bfloat16, and leaves float16 nodes to the CPU EP",
    "xnnpack": "XNNPACK's EP has float32 and 8-bit kernels, and leaves float16 nodes to the CPU EP",
}
"""EPs without kernels for float16, with what happens there instead."""

DELICATE: Final = frozenset(
    {
        "BatchNormalization",
        "CumSum",
        "Exp",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "LpNormalization",
        "Pow",
        "ReduceL2",
        "ReduceMean",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "Softmax",
        "Sqrt",
    }
)
"""Operators that sum or raise to powers, whose values are the first to leave what float16 holds: the second guess."""


@dataclass(frozen=True)
class Parameters:
    """What ``mixed-precision`` can be told."""

    op_block_list: tuple[str, ...] = field(
        default=(), metadata={"doc": "operators that stay float32 in every attempt, by name or glob"}
    )
    node_block_list: tuple[str, ...] = field(
        default=(), metadata={"doc": "nodes that stay float32 in every attempt, by name or glob"}
    )
    margin: float = field(
        default=0.2, metadata={"doc": "share of the allowed error that is left unused, since other data may be worse"}
    )
    max_attempts: int = field(default=40, metadata={"doc": "most models to try; what is undecided then stays float32"})
    budget_s: float = field(default=600.0, metadata={"doc": "seconds after which no other model is tried"})
    samples: int = field(default=16, metadata={"doc": "calibration samples that every attempt answers"})


def ortforge_passes() -> Iterable[Pass]:
    """Give the pass."""
    from ortforge.api import Pass

    return [
        Pass(
            name="mixed-precision",
            summary="float16 where the tolerance holds on this EP, found by trying; float32 elsewhere",
            parameters=Parameters,
            module=__file__,
            kind="convert",
            requires=("onnxconverter-common",),
            needs_calibration=True,
            per_ep=True,
            measures=True,
            objection=_objection,
            example={"margin": 0.2},
        )
    ]


def _objection(use: PassUse) -> str:
    wanted: Parameters = use.parameters
    if reason := WITHOUT_HALF.get(use.ep):
        return f"it needs an EP with float16 kernels (CUDA, TensorRT, DirectML, …): {reason}; use quantize-auto there"
    if not use.has_calibration:
        return "attempts are judged on calibration samples; give the model a calibration dataset"
    if not 0.0 <= wanted.margin < 1.0:
        return f"margin {wanted.margin:g} is no share: give one from 0 to below 1"
    if wanted.max_attempts < 1 or wanted.budget_s <= 0 or wanted.samples < 1:
        return "a search needs attempts, seconds and samples: max_attempts, budget_s and samples are above 0"
    return ""


def apply(job: PassJob) -> dict[str, Any]:
    """Search on the EP of the cell, and write what was found to ``job.output``.

    :raises NotImplementedError: the EP has no float16 kernels.
    :raises ValueError: the model cannot be read or is quantized, there are no samples, or a node is not there.
    :raises RuntimeError: the float model itself does not load or run.
    """
    if reason := WITHOUT_HALF.get(job.ep):
        raise NotImplementedError(
            f"mixed-precision needs an EP with float16 kernels: {reason}. Use quantize-auto there."
        )
    return convert(job, Parameters(**job.parameters))


def convert(job: PassJob, wanted: Parameters) -> dict[str, Any]:
    """Do what :func:`apply` does, wherever the job runs."""
    source, output = Path(job.model), Path(job.output)
    apart = outlines.read(outlines.plain_source(source, Path(job.workdir)))
    model = apart.model
    if onnx_graph.quantized_ops(model):
        raise ValueError("The model is quantized, and float16 would break its scales. Convert the float model instead.")
    if not job.samples:
        raise ValueError("There are no calibration samples. Give the model a calibration dataset with real inputs.")
    if not any(True for _ in onnx_graph.float_weights(model)):
        model_file.copy(source, output)
        return {"float16_weights": 0, "warnings": ["NO-OP: the model has no float32 weights to convert."]}
    onnx_graph.name_nodes(model)
    blocked = onnx_graph.op_types_of(model, wanted.op_block_list, (), "op_block_list")
    wanted = replace(wanted, op_block_list=tuple(blocked))
    always = onnx_graph.names_of(model, wanted.node_block_list, "node_block_list")
    names = [node.name for node in model.graph.node if node.name not in always and node.op_type != "Constant"]
    bench = _Bench(job, wanted, apart, always)
    ended = time.monotonic() + wanted.budget_s
    delicate = [node.name for node in model.graph.node if node.op_type in DELICATE and node.name not in always]
    guesses: list[list[str]] = [[], delicate] if delicate else [[]]
    found = mixed_search.search(
        names, guesses, bench.attempt, most=wanted.max_attempts, over=lambda: time.monotonic() > ended
    )
    tried = {
        "attempts": [{"converted": one.converted, "holds": one.holds, **one.measured} for one in found.attempts],
        "tolerance": {name: value for name, value in job.tolerance.items() if value is not None},
        "margin": wanted.margin,
        "judged_on": len(bench.numbers),
    }
    if len(found.kept) == len(names):
        model_file.copy(source, output)
        warning = (
            f"NO-OP: none of {len(found.attempts)} attempts holds the model's tolerance in float16 on {job.ep}: the "
            "float32 model ships. Loosen the tolerance, or lower margin"
            + ("." if found.complete else ", or raise max_attempts and budget_s: the search was not over.")
        )
        return {**tried, "float16_weights": 0, "warnings": [warning]}
    said = bench.convert(found.kept, output)
    said["nodes_kept_float32"] = sorted({*said["nodes_kept_float32"], *always, *found.kept})
    unfinished = f"The search ended after {len(found.attempts)} attempts: nodes that it did not decide stay float32."
    return {
        **said,
        **tried,
        "bytes_before": model_file.size(source),
        "bytes_after": model_file.size(output),
        "warnings": [] if found.complete else [f"{unfinished} Raise max_attempts or budget_s to go on."],
    }


class _Bench:
    """Makes the models of a search and asks the cell's EP for their answers."""

    def __init__(self, job: PassJob, wanted: Parameters, apart: outlines.Outline, always: Sequence[str]) -> None:
        self._job = job
        self._wanted = wanted
        self._apart = apart
        self._always = tuple(always)
        # Spread over the data: its beginning may be all of one kind.
        step = max(1, len(job.samples) // wanted.samples)
        self.numbers = list(range(0, len(job.samples), step))[: wanted.samples]
        with job.trial(Path(job.model), self.numbers, reference=True) as trial:
            self._reference = trial.answers()

    def convert(self, kept: Sequence[str], target: Path) -> dict[str, Any]:
        """Write the model with these nodes in float32, and return what the conversion says."""
        half = to_float16.Parameters(
            op_block_list=self._wanted.op_block_list,
            node_block_list=(*self._always, *kept),
        )
        return to_float16.converted(self._apart, half, target, self._job)

    def attempt(self, kept: Sequence[str]) -> mixed_search.Attempt:
        """Try a model; one that cannot be made, loaded or run does not hold."""
        count = len(self._apart.model.graph.node) - len(kept) - len(self._always)
        path = Path(self._job.workdir) / "attempt.onnx"
        try:
            self.convert(kept, path)
            with self._job.trial(path, self.numbers) as trial:
                answers = trial.answers()
        except RuntimeError as problem:
            return mixed_search.Attempt(count, False, {"problem": model_file.first_line(problem)})
        parity = closeness.compare(self._reference, answers)
        ratio = closeness.excess(parity, self._job.tolerance, self._wanted.margin)
        holds = ratio <= 1.0 and not self._job.broken_limits(self._reference, answers)
        return mixed_search.Attempt(count, holds, {"parity": parity.as_json()})
