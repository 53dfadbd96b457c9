"""differences: where a changed model's tensors leave those of the model that it was made from.

Both models are run with the tensors in between as outputs: the float one on the CPU EP, the other on the cell's EP.
Graph optimizations are off on both sides, since every tensor that is an output prevents a fusion anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .attribution import Grid, Rounded, first_nodes, places
from .matching import Tap, absorbed, grids, match, quantized_nodes, weight_pairs
from .mixed_scales import SliceErrors, candidates, mixed_nodes, ruined_slices
from .protocol import Channel, JobError

__all__ = ["first_diverging", "run", "weight_errors"]

EXCLUDED_SHARE = 0.5
"""The proposed list of nodes to exclude has this share of the outputs' noise…"""
EXCLUDED_NODES = 0.25
"""… with at most this share of the nodes that were quantized, and at least one place."""

PIECE = 1 << 13
"""Values that are compared at a time. Of more than 10,000 OpenBLAS lets threads do the products, and they wait."""


@dataclass
class Sums:
    """Sums over all samples, of one tensor."""

    dot: float = 0.0
    reference: float = 0.0
    candidate: float = 0.0
    error: float = 0.0
    largest: float = 0.0
    broken: int = 0

    def add(self, left: Any, right: Any) -> None:
        """Add one sample; what is NaN or infinite on one side alone is ``broken``, on both it counts for nothing."""
        whole, other = np.asarray(left).ravel(), np.asarray(right).ravel()
        for start in range(0, whole.size, PIECE):
            piece = slice(start, start + PIECE)
            self._add_piece(whole[piece].astype(np.float64), other[piece].astype(np.float64))

    def _add_piece(self, a: Any, b: Any) -> None:
        usable = np.isfinite(a) & np.isfinite(b)
        if not usable.all():
            self.broken += int((~usable & (a != b) & ~(np.isnan(a) & np.isnan(b))).sum())
            a, b = a[usable], b[usable]
        difference = a - b
        self.dot += float(a @ b)
        self.reference += float(a @ a)
        self.candidate += float(b @ b)
        self.error += float(difference @ difference)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))

    @property
    def noise(self) -> float:
        """Energy of the error over that of the signal."""
        if self.broken:
            return math.inf
        if self.error == 0.0:
            return 0.0
        return self.error / self.reference if self.reference else math.inf

    def facts(self) -> dict[str, Any]:
        """SQNR in dB (``None``: no error, no signal, NaN; ``exact`` and ``broken`` tell), cosine, largest error."""
        norms = math.sqrt(self.reference) * math.sqrt(self.candidate)
        finite = 0.0 < self.noise < math.inf
        return {
            "sqnr_db": -10.0 * math.log10(self.noise) if finite else None,
            "exact": self.noise == 0.0,
            "cosine": max(-1.0, min(1.0, self.dot / norms)) if norms else float(self.noise == 0.0),
            "max_abs": self.largest if math.isfinite(self.largest) else None,
            "broken": self.broken,
        }


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``differences`` job: compare ``model`` with ``reference`` on the first ``count`` samples."""
    import onnx
    import onnxruntime as ort

    from . import tensors
    from .samples import Samples
    from .session import open_session

    samples = Samples(job["samples"])
    if not len(samples):
        raise JobError("input", "there are no samples to compare the models on")
    before, after = onnx.load(job["reference"]), onnx.load(job["model"])
    taps = match(before.graph, after.graph)
    if not taps:
        raise JobError("unsupported", "no tensor of the model was found again in the one that was made from it")
    channel.phase("load")
    plain = {**job["session"], "graph_optimization_level": "disable"}
    left = _tapped(before, sorted(taps), Path("reference.onnx"), onnx)
    right = _tapped(after, sorted({tap.name for tap in taps.values()}), Path("model.onnx"), onnx)
    float_session = open_session(ort, left, [["CPUExecutionProvider", {}]], {"graph_optimization_level": "disable"})
    session = open_session(ort, right, job["providers"], plain)
    channel.phase("run")
    count = min(int(job["count"]), len(samples))
    feeds = ((samples.feeds(number), number) for number in range(count))
    types = job["session"].get("inputs") or {}
    cast = ((sample, tensors.cast_feeds(sample, types, number)) for sample, number in feeds)
    sessions = _Tapped(ort, float_session.session), _Tapped(ort, session.session)
    rounding = grids(before.graph, after.graph)
    slices = Slices(
        {value.name: SliceErrors() for value in before.graph.output if value.name in taps},
        {name: SliceErrors() for name in candidates(before.graph) if name in rounding},
    )
    sums, rounded = _measured(cast, sessions, taps, rounding, slices)
    seen = {name: one for name, one in sums.items() if one.reference or one.candidate}
    threshold = float(job["threshold_db"])
    weights = weight_errors(before.graph, after.graph)
    quantized = quantized_nodes(before.graph, after.graph)
    ranking = places(
        before.graph,
        {name: (one.noise, one.reference) for name, one in seen.items()},
        {name: one.noise for name, one in rounded.items()},
        {one["weight"]: 10.0 ** (-(one["sqnr_db"] or 0.0) / 10.0) for one in weights},
        quantized,
        absorbed(before.graph, after.graph),
    )
    mixed = mixed_nodes(before.graph, slices.rounding, slices.peaks, quantized)
    chosen = first_nodes(ranking, EXCLUDED_SHARE, EXCLUDED_NODES * len(quantized))
    made = {name for node in before.graph.node if node.op_type != "Constant" for name in node.output if name}
    channel.finish(
        {
            "samples": count,
            "threshold_db": threshold,
            "tensors": _listed(before.graph, seen),
            "unmatched": len(made - set(taps)),
            "first_diverging": first_diverging(before.graph, seen, threshold),
            "weights": weights,
            "quantized_nodes": len(quantized),
            "ranking": [place.facts() for place in ranking],
            "mixed": mixed,
            "ruined_outputs": slices.ruined_outputs(),
            "nodes_to_exclude": list(dict.fromkeys(name for one in mixed for name in one["nodes"])) or chosen,
            "unnamed_nodes": sum(not node.name for node in before.graph.node),
        }
    )


@dataclass
class Slices:
    """Sums by slice: what rounding does to tensors with one scale, and what became of the outputs."""

    outputs: dict[str, SliceErrors]
    rounding: dict[str, SliceErrors]
    peaks: dict[str, float] = field(default_factory=dict)

    def ruined_outputs(self) -> list[dict[str, Any]]:
        """Return the outputs of which some slices are ruined."""
        found = ((name, ruined_slices(sums)) for name, sums in self.outputs.items())
        return [{"output": name, **ruin} for name, ruin in found if ruin is not None]

    def see(self, name: str, value: Any) -> None:
        """Note how large a tensor of the float model is."""
        if value.dtype.kind == "f" and value.size:
            finite = value[np.isfinite(value)]
            self.peaks[name] = max(self.peaks.get(name, 0.0), float(np.abs(finite).max(initial=0.0)))


class _Tapped:
    """Runs a model whose tensors in between are outputs."""

    def __init__(self, ort: Any, session: Any) -> None:
        from .host_values import HostValues

        self._values = HostValues(ort, session)
        self._outputs = [entry.name for entry in session.get_outputs()]

    def run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """Return outputs as arrays. Sequences, maps and optionals, which have no noise, are empty arrays of objects."""
        answers = self._values.answer(self._values.hold(feeds))
        arrays = {
            name: value if isinstance(value, np.ndarray) else np.empty(0, object)
            for name, value in zip(self._outputs, answers, strict=True)
        }
        return [arrays[name] for name in names]


def _measured(
    feeds: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    sessions: tuple[Any, Any],
    taps: Mapping[str, Tap],
    rounded_to: Mapping[str, Grid],
    slices: Slices,
) -> tuple[dict[str, Sums], dict[str, Rounded]]:
    """Run both models over samples, given as each of them takes them; return what the tensors differ by."""
    sums, rounded = {name: Sums() for name in taps}, {name: Rounded() for name in rounded_to}
    wished, names = sorted(taps), sorted({tap.name for tap in taps.values()})
    for left, right in feeds:
        wanted = dict(zip(wished, sessions[0].run(wished, dict(left)), strict=True))
        found = dict(zip(names, sessions[1].run(names, dict(right)), strict=True))
        for name, tap in taps.items():
            value = tap.value(found[tap.name])
            if wanted[name].dtype.kind == "f" and value.shape == wanted[name].shape:
                sums[name].add(wanted[name], value)
                slices.see(name, wanted[name])
                if name in slices.outputs:
                    slices.outputs[name].add(wanted[name], value)
        for name, grid in rounded_to.items():
            value = wanted.get(name, left.get(name))
            if value is not None and value.dtype.kind == "f":
                rounded[name].add(value, grid)
                if name in slices.rounding:
                    slices.rounding[name].add(value, grid.rounded(value.astype(np.float64)))
    return sums, rounded


def _tapped(model: Any, names: Sequence[str], path: Path, onnx: Any) -> str:
    """Write a model that puts out the tensors ``names`` as well; return its path."""
    known = {value.name for value in model.graph.output}
    copy = type(model)()
    copy.CopyFrom(model)
    for name in names:
        if name not in known:
            copy.graph.output.add(name=name)
    size = copy.ByteSize()
    onnx.save(copy, str(path), save_as_external_data=size > 1 << 30, location=f"{path.name}.data")
    return str(path)


def _listed(graph: Any, seen: Mapping[str, Sums]) -> list[dict[str, Any]]:
    """The tensors in the order in which the float graph makes them."""
    return [
        {"tensor": name, "node": node.name, "op": node.op_type, **seen[name].facts()}
        for node in graph.node
        for name in node.output
        if name in seen
    ]


def first_diverging(graph: Any, seen: Mapping[str, Sums], threshold_db: float) -> dict[str, Any] | None:
    """Return the first node in topological order whose inputs are within the threshold and whose output is not."""
    limit = 10.0 ** (-threshold_db / 10.0)
    for node in graph.node:
        if any(name in seen and seen[name].noise > limit for name in node.input):
            continue
        for name in node.output:
            if name in seen and seen[name].noise > limit:
                return {"node": node.name, "op": node.op_type, "tensor": name, **seen[name].facts()}
    return None


def weight_errors(before: Any, after: Any) -> list[dict[str, Any]]:
    """Compare float weights with what the changed model has in their place, worst first. Scalars count, too."""
    found = []
    for name, value, other in weight_pairs(before, after):
        sums = Sums()
        sums.add(value, other)
        if sums.noise:
            found.append({"weight": name, "shape": list(value.shape), **sums.facts()})
    return sorted(found, key=_badness)


def _badness(entry: Mapping[str, Any]) -> float:
    if entry["sqnr_db"] is None:
        return math.inf if entry["exact"] else -math.inf
    return float(entry["sqnr_db"])
