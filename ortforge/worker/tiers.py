"""tiers: what a model's 8-bit integer products give on CPUs that add them in another way than this one.

ORT optimizes the model as for a run and saves the graph. Products that cannot saturate, whatever the activations, need
no run. The others are computed as on a CPU whose kernels saturate (or, on such a CPU, exactly): the graph is cut before
each of them, everything else runs in ORT, and numpy computes what saturation takes away (:mod:`.saturation`). So an
error spreads through the model as it would there, and the outputs can be compared like those of any cell.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from .integer_products import Product, products
from .protocol import Channel, JobError
from .saturation import Excess, conv_columns, conv_weight_matrix, excess, paired
from .segments import Segments
from .tier_graph import Step, UnsupportedError, rewrite

__all__ = ["PRECISION", "compute", "numbers", "run"]

PRECISION: Final = "session.x64quantprecision"
"""ORT's session option that turns s8 weights into u8 where u8 x s8 may saturate."""

EVALUATIONS: Final = 400_000_000
"""Pair sums that are always allowed for a model: about two seconds on one core."""

EVALUATIONS_FOR_A_PRODUCT: Final = 0.015
"""Further pair sums for each multiplication of the run: so many take about twice as long as a float run."""

FEW_SAMPLES: Final = 16
"""Up to so many samples, all are computed."""

LISTED: Final = 20
"""Nodes in the result, those with the most saturated sums first."""

EXTERNAL_ABOVE: Final = 1 << 30
"""Bytes of a model from which ORT writes the optimized graph's weights to a file of their own."""

IN_MEMORY: Final = "_ORT_MEM_ADDR_"
"""Where versions before 1.22 say that a weight lies, in the graphs that they save, when it lies in their memory."""

LEVELS: Final = {"disable": "disable", "basic": "basic"}
"""The optimization level for the saved graph; above extended, float weights are laid out for this very CPU."""


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``tiers`` job (:func:`compute`) and finish it."""
    channel.phase("load")
    channel.finish(compute(job, Path.cwd(), lambda: channel.phase("run")))


def compute(job: Mapping[str, Any], folder: Path, begins: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return what is known of a model's integer products, and keep the outputs of those that had to be computed.

    :param job: ``model``, ``session``, ``samples``, ``output`` (folder for the outputs), ``emulate``: which arithmetic
        to compute, ``saturating-pairs`` or ``exact``, and perhaps ``numbers``: the samples to choose from.
    :param folder: for files that are not kept. :param begins: called before the first sample is run.
    """
    started = time.perf_counter()
    import onnx
    import onnxruntime as ort

    session = dict(job["session"])
    try:
        model = _optimized(ort, onnx, job["model"], session, folder)
    except Exception as error:
        if IN_MEMORY not in str(error):
            raise
        why = f"ONNX Runtime {ort.__version__} saves the graph that it runs without the data of its weights"
        unknown = [{"node": "", "op": "", "why": why}]
        nothing = {"wraps": [], "signed": False, "emulated": "", "samples": 0}
        return {"products": 1, "unsafe": 1, "unknown": unknown, **nothing, "seconds": time.perf_counter() - started}
    found = products(model.graph, onnx.numpy_helper.to_array)
    unsafe = [product for product in found if not product.safe]
    opaque = [product for product in unsafe if product.operands is None]
    result: dict[str, Any] = {
        "products": len(found),
        "unsafe": len(unsafe),
        "unknown": [{"node": one.label, "op": one.node.op_type, "why": one.why} for one in opaque],
        "wraps": [product.label for product in found if product.wraps],
        "signed": any(product.why == "it is not u8 x s8" for product in found),
        "emulated": "",
        "samples": 0,
    }
    if unsafe and not opaque:
        begins()
        try:
            result |= _emulated(ort, onnx, model, unsafe, job, session)
        except UnsupportedError as error:
            result["unknown"] = [{"node": "", "op": "", "why": str(error)}]
    if result.get("saturated") and (session.get("config") or {}).get(PRECISION) != "1":
        precise = {**session, "config": {**(session.get("config") or {}), PRECISION: "1"}}
        # ORT 1.32 refuses some models with this option ("Attempt to replace the existing tensor"): it is no help then.
        with contextlib.suppress(Exception):
            again = products(_optimized(ort, onnx, job["model"], precise, folder).graph, onnx.numpy_helper.to_array)
            result["with_precision"] = sum(not product.safe for product in again)
    result["seconds"] = time.perf_counter() - started
    return result


def _optimized(ort: Any, onnx: Any, model: str, session: Mapping[str, Any], folder: Path) -> Any:
    """Return the graph that ORT's CPU EP would run, without layouts that are this CPU's own."""
    from .session import open_session

    path = folder.absolute() / "optimized.onnx"
    for old in (path, path.with_suffix(".data")):
        old.unlink(missing_ok=True)
    level = LEVELS.get(str(session.get("graph_optimization_level") or "all"), "extended")
    plain = {name: value for name, value in session.items() if name in ("config", "intra_op_threads")}
    config = dict(plain.get("config") or {})
    if _size(model) > EXTERNAL_ABOVE:
        config["session.optimized_model_external_initializers_file_name"] = "optimized.data"
    options = {**plain, "graph_optimization_level": level, "config": config}
    open_session(ort, model, [["CPUExecutionProvider", {}]], options, optimized=str(path))
    return onnx.load(str(path))


def _size(model: str) -> int:
    folder = Path(model).parent
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _emulated(
    ort: Any, onnx: Any, model: Any, unsafe: Sequence[Product], job: Mapping[str, Any], session: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the samples, as many as the effort allows; return what was found, and keep the outputs."""
    from . import tensors
    from .samples import Samples, SampleWriter

    samples = Samples(job["samples"])
    if not len(samples):
        raise JobError("input", "There are no samples to run.")
    saturates = job["emulate"] == "saturating-pairs"  # so this CPU does not
    rewritten = rewrite(model.graph, list(unsafe), onnx, onnx.numpy_helper.to_array, keep_signed=saturates)
    counts = {step.product.label: [0, 0] for step in rewritten.steps}
    effort = _Effort()

    def take(step: Step, values: Mapping[str, Any]) -> Any:
        lost = _excess_of(step, values, effort)
        tally = counts[step.product.label]
        tally[0] += sum(one.saturated for one in lost[1])
        tally[1] += sum(one.sums for one in lost[1])
        return lost[0] if saturates else np.zeros_like(lost[0])

    segments = Segments(ort, onnx, model, rewritten, take, threads=session.get("intra_op_threads"))
    writer = SampleWriter(job["output"], segments.outputs)
    types, kept_as = session.get("inputs") or {}, session.get("outputs") or {}
    done: list[int] = []
    given = list(job.get("numbers") or range(len(samples)))
    chosen = [given[place] for place in numbers(len(given))]
    for number in chosen:
        answer = segments.run(tensors.cast_feeds(samples[number], types, number))
        flat = {key: value for name in segments.outputs for key, value in tensors.flatten(name, answer[name]).items()}
        writer.write({name: value.astype(kept_as[name]) if name in kept_as else value for name, value in flat.items()})
        done.append(number)
        if effort.evaluated > EVALUATIONS + EVALUATIONS_FOR_A_PRODUCT * effort.products / len(done) * len(given):
            break
    writer.close(random=samples.random, source=samples.source)
    nodes = sorted(((*tally, name) for name, tally in counts.items()), reverse=True)
    return {
        "emulated": job["emulate"],
        "samples": len(done),
        "numbers": done,
        "of": len(given),
        "saturated": sum(tally[0] for tally in counts.values()),
        "sums": sum(tally[1] for tally in counts.values()),
        "segments": len(segments),
        "nodes": [{"node": name, "saturated": some, "sums": total} for some, total, name in nodes[:LISTED] if some],
    }


def numbers(count: int) -> list[int]:
    """Return the samples that are computed: all of a few, every other one of many, which halves the cost."""
    return list(range(0, count, 1 if count <= FEW_SAMPLES else 2))


class _Effort:
    """What has been computed so far: pair sums, and multiplications of the products they belong to."""

    def __init__(self) -> None:
        self.evaluated = 0
        self.products = 0

    def add(self, one: Excess, depth: int) -> None:
        self.evaluated += one.evaluated
        self.products += one.value.size * depth


def _excess_of(step: Step, values: Mapping[str, Any], effort: _Effort) -> tuple[Any, list[Excess]]:
    operands = step.product.operands
    if operands is None:
        raise UnsupportedError(step.product.why)
    a = values[step.a]
    b = step.product.weights if not step.b else values[step.b]
    if operands.kind == "matmul":
        return _matmul(step, a, b, effort)
    zero = int(np.asarray(values[step.zero]).reshape(-1)[0])
    return _conv(step, a, b, zero, effort)


def _one(a: Any, b: Any, effort: _Effort) -> Excess:
    """Return the excess of ``a`` (K, rows) and ``b`` (K, columns); none where they are not u8 and s8."""
    if a.dtype != np.uint8 or b.dtype != np.int8 or not a.size or not b.size:
        return Excess(np.zeros((a.shape[1], b.shape[1]), np.int32), 0, 0, 0)
    found = excess(a, paired(b, a.max(axis=1)))
    effort.add(found, a.shape[0])
    return found


def _matmul(step: Step, a: Any, b: Any, effort: _Effort) -> tuple[Any, list[Excess]]:
    if step.product.node.op_type == "QGemm":
        facts = {attribute.name: attribute.i for attribute in step.product.node.attribute}
        b = b.T if facts.get("transB") else b
    if b.ndim == 1:
        lost = _one(np.ascontiguousarray(a.reshape(-1, b.shape[0]).T), b[:, None], effort)
        return lost.value.reshape(a.shape[:-1]), [lost]
    if b.ndim == 2:
        lost = _one(np.ascontiguousarray(a.reshape(-1, b.shape[0]).T), b, effort)
        return lost.value.reshape(*a.shape[:-1], b.shape[1]), [lost]
    left = a if a.ndim > 1 else a[None]
    shape = np.broadcast_shapes(left.shape[:-2], b.shape[:-2])
    many = np.broadcast_to(left, (*shape, *left.shape[-2:])).reshape(-1, *left.shape[-2:])
    others = np.broadcast_to(b, (*shape, *b.shape[-2:])).reshape(-1, *b.shape[-2:])
    found = [_one(np.ascontiguousarray(one.T), other, effort) for one, other in zip(many, others, strict=True)]
    value = np.stack([one.value for one in found]).reshape(*shape, left.shape[-2], b.shape[-1])
    return (value if a.ndim > 1 else value[..., 0, :]), found


def _conv(step: Step, x: Any, weights: Any, zero: int, effort: _Effort) -> tuple[Any, list[Excess]]:
    node, operands = step.product.node, step.product.operands
    facts = {attribute.name: attribute for attribute in node.attribute}
    kernel = weights.shape[2:]
    rank, group = len(kernel), int(facts["group"].i) if "group" in facts else 1
    strides = list(facts["strides"].ints) if "strides" in facts else [1] * rank
    dilations = list(facts["dilations"].ints) if "dilations" in facts else [1] * rank
    pads = _pads(facts, x.shape[2:], kernel, strides, dilations)
    columns = conv_columns(x, kernel, strides, dilations, pads, zero)
    width = weights.shape[1]
    space = [
        (size + pads[axis] + pads[rank + axis] - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
        for axis, size in enumerate(x.shape[2:])
    ]
    found = []
    if operands is not None and operands.kind == "conv-integer":
        rows = weights.reshape(group, -1, width * int(np.prod(kernel)))
        for number in range(group):
            part = columns[:, number * width : (number + 1) * width].transpose(1, 0, 2)
            found.append(_one(np.ascontiguousarray(rows[number].T), part.reshape(rows.shape[2], -1), effort))
        value = np.concatenate([one.value for one in found], axis=0)  # (output channels, samples x positions)
        value = value.reshape(weights.shape[0], x.shape[0], -1).transpose(1, 0, 2)
    else:
        for number, matrix in enumerate(conv_weight_matrix(weights, group)):
            part = columns[:, number * width : (number + 1) * width]
            found.append(_one(part.reshape(matrix.shape[0], -1), matrix, effort))
        value = np.concatenate([one.value for one in found], axis=1)  # (samples x positions, output channels)
        value = value.reshape(x.shape[0], -1, weights.shape[0]).transpose(0, 2, 1)
    return np.ascontiguousarray(value).reshape(x.shape[0], weights.shape[0], *space), found


def _pads(
    facts: Mapping[str, Any], space: Sequence[int], kernel: Sequence[int], strides: Sequence[int], steps: Sequence[int]
) -> list[int]:
    """Return begins and ends of the padding, from ``pads`` or ``auto_pad`` (ONNX's definition of Conv)."""
    auto = facts["auto_pad"].s.decode() if "auto_pad" in facts else "NOTSET"
    if auto in ("NOTSET", ""):
        return list(facts["pads"].ints) if "pads" in facts else [0] * (2 * len(kernel))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    begins, ends = [], []
    for size, width, stride, step in zip(space, kernel, strides, steps, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (width - 1) * step + 1 - size)
        small = total // 2
        begins.append(total - small if auto == "SAME_LOWER" else small)
        ends.append(small if auto == "SAME_LOWER" else total - small)
    return begins + ends
