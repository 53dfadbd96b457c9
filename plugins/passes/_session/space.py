"""What can be set about a session, and which values are worth trying for a model, an EP and a device.

Pure: looks at facts that :func:`hardware` and :func:`branching` found, and says what to try or why there is nothing to.
Names are those of ``matrix.toml``'s ``session`` table, configuration entries ONNX Runtime's own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onnx import GraphProto

__all__ = ["KNOBS", "Branches", "Hardware", "Settings", "Situation", "branching", "hardware"]

HEAVY_OPS: Final = frozenset(
    {
        "Attention",
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DynamicQuantizeMatMul",
        "FusedConv",
        "FusedMatMul",
        "GRU",
        "Gemm",
        "LSTM",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "RNN",
    }
)
"""Operators whose work is worth a thread of its own."""

WORTHWHILE_BRANCHES: Final = 0.2
"""Share of the heavy operators that must have others beside them before the parallel executor is tried."""

MOST_INTER_OP: Final = 4

SPINNING: Final = "session.intra_op.allow_spinning"
INTER_SPINNING: Final = "session.inter_op.allow_spinning"
AFFINITIES: Final = "session.intra_op_thread_affinities"
BLOCK_BASE: Final = "session.dynamic_block_base"
WEIGHTS_OUTSIDE_ARENA: Final = "session.use_device_allocator_for_initializers"
DENORMALS: Final = "session.set_denormal_as_zero"

OWN_THREADS: Final[Mapping[str, str]] = {
    "DnnlExecutionProvider": "num_of_threads",
    "OpenVINOExecutionProvider": "num_of_threads",
    "XnnpackExecutionProvider": "intra_op_num_threads",
}
"""EPs that compute on threads of their own, and the provider option with their number."""


@dataclass(frozen=True)
class Settings:
    """Session options and provider options that differ from the cell's default; empty: the default itself."""

    session: Mapping[str, Any] = field(default_factory=dict)
    ep_options: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.session or self.ep_options)

    def over(self, other: Settings) -> Settings:
        """Return ``other`` with these on top."""
        session = {**other.session, **self.session}
        if config := {**other.session.get("config", {}), **self.session.get("config", {})}:
            session["config"] = config
        return Settings(session, {**other.ep_options, **self.ep_options})

    @property
    def text(self) -> str:
        """What they are, in a line."""
        plain = {name: value for name, value in self.session.items() if name != "config"}
        entries = {**plain, **self.session.get("config", {}), **self.ep_options}
        return ", ".join(f"{name} = {_toml(value)}" for name, value in entries.items()) or "the default session"

    @property
    def lines(self) -> dict[str, str]:
        """What to paste: ``recipe``, its ``session`` table, and ``ep``, the ``options`` of the target's EP, if any."""
        tables = {"recipe": ("session", self.session), "ep": ("options", self.ep_options)}
        return {place: f"{name} = {_toml(table)}" for place, (name, table) in tables.items() if table}


def _toml(value: Any) -> str:
    """Return a value as TOML writes it inline."""
    if isinstance(value, Mapping):
        pairs = (
            f"{key if re.fullmatch(r'[A-Za-z0-9_-]+', key) else json.dumps(key)} = {_toml(value[key])}" for key in value
        )
        return "{ " + ", ".join(pairs) + " }"
    return json.dumps(value)


@dataclass(frozen=True)
class Hardware:
    """The logical processors that this process may use, by their numbers.

    :param first: one of each physical core. :param siblings: the others, which share a core with one of those.
    """

    first: tuple[int, ...]
    siblings: tuple[int, ...] = ()

    @property
    def logical(self) -> int:
        """How many logical processors there are."""
        return len(self.first) + len(self.siblings)


@dataclass(frozen=True)
class Branches:
    """Heavy operators that could run side by side: the most at any depth, and their share of all heavy ones."""

    width: int = 1
    share: float = 0.0


@dataclass(frozen=True)
class Situation:
    """All that the values to try depend on.

    :param session: the cell's default session options, :param ep_options: and its provider options.
    :param branches: ``None`` where the graph cannot be read. :param chosen: what the search has settled on so far.
    :param threads: counts that the recipe asks for. :param denormals: whether flushing denormals to zero may be tried.
    """

    session: Mapping[str, Any]
    ep_name: str
    ep_options: Mapping[str, str]
    hardware: Hardware
    branches: Branches | None
    chosen: Settings = field(default_factory=Settings)
    threads: tuple[int, ...] = ()
    denormals: bool = False

    def in_force(self, name: str) -> Any:
        """Return the value of a session option as things stand."""
        return self.chosen.session.get(name, self.session.get(name))

    def entry(self, name: str) -> str:
        """Return a configuration entry as things stand, or ``""``."""
        own = self.chosen.session.get("config", {}).get(name)
        return str(own if own is not None else (self.session.get("config") or {}).get(name, ""))

    @property
    def intra_op(self) -> int:
        """Threads inside an operator as things stand; 0 leaves it to ONNX Runtime, which takes the physical cores."""
        return int(self.in_force("intra_op_threads") or 0) or len(self.hardware.first)


Trials = Sequence[Settings] | str
"""Settings to try on top of those chosen so far, or why there are none."""

ONE_THREAD: Final = "there is one thread only"


def _config(name: str, value: str) -> Settings:
    return Settings({"config": {name: value}})


def _intra_op(now: Situation) -> Trials:
    default = int(now.session.get("intra_op_threads") or 0)
    # More threads than the device gives by default would only wait for its cores.
    most = default if default > 1 else now.hardware.logical
    counts = {1 << power for power in range(most.bit_length())} | {len(now.hardware.first), most}
    wanted = now.threads or tuple(sorted(count for count in counts if 1 <= count <= most))
    option = OWN_THREADS.get(now.ep_name, "")
    tied = option and now.ep_options.get(option) == str(default)
    tried = [
        Settings({"intra_op_threads": count}, {option: str(count)} if tied else {})
        for count in wanted
        if count != default
    ]
    return tried or "the default is the only count that makes sense on this device"


def _own_threads(now: Situation) -> Trials:
    option = OWN_THREADS.get(now.ep_name, "")
    if not option:
        return f"{now.ep_name} has no threads of its own"
    given = {**now.ep_options, **now.chosen.ep_options}.get(option)
    counts = sorted({1, len(now.hardware.first), now.hardware.logical, *now.threads})
    return [Settings({}, {option: str(count)}) for count in counts if str(count) != given] or ONE_THREAD


def _affinity(now: Situation) -> Trials:
    count = now.intra_op
    if count < 2:
        return ONE_THREAD
    order = (*now.hardware.first, *now.hardware.siblings)
    if count > len(order):
        return "there are more threads than processors to bind them to"
    # ORT counts processors from 1, and its first thread is the caller's own, which it does not bind.
    bound = ";".join(str(number + 1) for number in order[1:count])
    return [Settings({"intra_op_threads": count, "config": {AFFINITIES: bound}})]


def _parallel(now: Situation) -> Trials:
    if now.branches is None:
        return "the graph cannot be read (ORT's own format)"
    if now.branches.width < 2 or now.branches.share < WORTHWHILE_BRANCHES:
        return "the graph has no branches that are worth it: its heavy operators wait for each other"
    if now.hardware.logical < 2:
        return "there is one processor only"
    if now.in_force("execution_mode") == "parallel":
        return [Settings({"execution_mode": "sequential"})]
    counts = sorted({2, min(now.branches.width, now.hardware.logical, MOST_INTER_OP)})
    return [Settings({"execution_mode": "parallel", "inter_op_threads": count}) for count in counts]


def _spinning(now: Situation) -> Trials:
    found = []
    if now.intra_op > 1:
        found.append(_config(SPINNING, "1" if now.entry(SPINNING) == "0" else "0"))
    if now.in_force("execution_mode") == "parallel":
        found.append(_config(INTER_SPINNING, "1" if now.entry(INTER_SPINNING) == "0" else "0"))
    return found or ONE_THREAD


def _block_base(now: Situation) -> Trials:
    if now.intra_op < 2:
        return ONE_THREAD
    # 4 is what ONNX Runtime's documentation proposes; without it a loop is cut into equal blocks, one per thread.
    return [_config(BLOCK_BASE, "0" if now.entry(BLOCK_BASE) not in ("", "0") else "4")]


def _arena(now: Situation) -> Trials:
    return [Settings({"enable_cpu_mem_arena": now.in_force("enable_cpu_mem_arena") is False})]


def _pattern(now: Situation) -> Trials:
    if now.in_force("execution_mode") == "parallel":
        return "the parallel executor plans no memory ahead"
    return [Settings({"enable_mem_pattern": now.in_force("enable_mem_pattern") is False})]


def _weights(now: Situation) -> Trials:
    return [_config(WEIGHTS_OUTSIDE_ARENA, "0" if now.entry(WEIGHTS_OUTSIDE_ARENA) == "1" else "1")]


def _denormals(now: Situation) -> Trials:
    if not now.denormals:
        return "it changes results: tried only with denormals = true"
    return [_config(DENORMALS, "0" if now.entry(DENORMALS) == "1" else "1")]


KNOBS: Final[Mapping[str, Callable[[Situation], Trials]]] = {
    "intra_op_threads": _intra_op,
    "ep_threads": _own_threads,
    "execution_mode": _parallel,
    "spinning": _spinning,
    "affinity": _affinity,
    "dynamic_block_base": _block_base,
    "mem_arena": _arena,
    "mem_pattern": _pattern,
    "initializer_allocator": _weights,
    "denormals": _denormals,
}
"""What is tried, in this order: what matters most first, and what depends on the number of threads after it."""


def branching(graph: GraphProto) -> Branches:
    """Return how many heavy operators of a graph could run side by side.

    An operator's depth is the number of heavy ones on the longest way to it: two of one depth are independent.
    """
    depth: dict[str, int] = {}
    counts: dict[int, int] = {}
    for node in graph.node:  # in topological order, as ONNX requires
        heavy = node.op_type in HEAVY_OPS
        level = max((depth.get(name, 0) for name in node.input), default=0) + heavy
        depth.update(dict.fromkeys(node.output, level))
        if heavy:
            counts[level] = counts.get(level, 0) + 1
    total = sum(counts.values())
    beside = sum(count for count in counts.values() if count > 1)
    return Branches(max(counts.values(), default=1), beside / total if total else 0.0)


def hardware(topology: Path = Path("/sys/devices/system/cpu")) -> Hardware:
    """Return the processors that this process may use, told apart by the core they belong to where Linux says it."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = list(range(os.cpu_count() or 1))
    first: dict[str, int] = {}
    for number in allowed:
        try:
            core = (topology / f"cpu{number}" / "topology" / "thread_siblings_list").read_text("ascii").strip()
        except OSError:
            core = f"cpu{number}"
        first.setdefault(core, number)
    cores = tuple(first.values())
    return Hardware(cores, tuple(number for number in allowed if number not in cores))
