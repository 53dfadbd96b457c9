"""Inputs and outputs that lie in an EP's own memory, so that a timing holds no copies; and CUDA graphs, which need it.

``session.run`` copies inputs to a GPU and outputs back, each time. Who runs a model in a pipeline on that GPU does not,
and the copies of a small model take longer than the model. Bound once, tensors stay where they are.

A CUDA graph replays kernels with the addresses that they had when they were recorded. So its inputs keep their buffers,
one set for each combination of input shapes, and each sample is copied into them before the clock starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .host_values import HostValues
from .narrow_types import NARROW
from .nvidia import captures
from .protocol import JobError
from .tensors import ort_dtype

__all__ = ["Bound", "Held", "Plain", "Runner", "runner"]

GRAPH_ID = "gpu_graph_id"
"""Run option of ORT (1.18 and newer): which captured graph a run belongs to; ``-1`` runs without capturing."""

MOST_SHAPES = 64
"""Graphs that one session captures: each holds its own buffers."""


@dataclass
class _Slot:
    """Buffers that belong together: one binding with the values that it refers to."""

    binding: Any
    inputs: dict[str, Any]
    outputs: list[Any]
    options: Any = None


@dataclass(frozen=True)
class Held:
    """A sample that is ready to run. ``feeds`` is set where it must be copied into shared buffers first."""

    slot: _Slot
    feeds: Mapping[str, Any] | None = field(default=None, repr=False)


class Plain:
    """Runs samples from host memory: the EP copies what it needs.

    :raises JobError: kind ``unsupported``, when the Python API cannot pass the model's inputs and outputs.
    """

    def __init__(self, ort: Any, session: Any) -> None:
        self._values = HostValues(ort, session)
        self.run = self._values.run
        self.place, self.captured = "", False

    def hold(self, feeds: Mapping[str, Any]) -> Any:
        """Return the sample as :meth:`run` wants it."""
        return self._values.hold(feeds)

    def prepare(self, held: Any) -> None:
        """Do what must be done before a run and is no part of it: nothing."""

    def answer(self, held: Any) -> list[Any]:
        """Run a sample and return its outputs; those of narrow types are widened."""
        return self._values.answer(held)


class Bound:
    """Runs samples whose inputs and outputs lie in the memory of a device.

    :param device: ORT's name of the device's memory (``cuda``, ``cpu``). :param index: which of several devices.
    :param captured: replay CUDA graphs; the session must have been made with ``enable_cuda_graph``.
    """

    def __init__(self, ort: Any, session: Any, device: str, index: int = 0, *, captured: bool = False) -> None:
        self._ort, self._session = ort, session
        self._device, self._index, self.captured = device, index, captured
        self._slots: dict[tuple[Any, ...], _Slot] = {}
        self._input_here = _on_device(session, "input", device)
        self._output_here = _on_device(session, "output", device)
        self.place = f"{device}:{index}"

    def hold(self, feeds: Mapping[str, Any]) -> Held:
        """Put a sample into the device's memory and run it once, which gives its outputs their buffers.

        :raises JobError: kind ``unsupported``, when graphs are captured and there are too many shapes.
        """
        if not self.captured:
            return Held(self._bind(feeds))
        key = tuple((name, str(array.dtype), array.shape) for name, array in sorted(feeds.items()))
        if key not in self._slots:
            if len(self._slots) >= MOST_SHAPES:
                raise JobError(
                    "unsupported",
                    f"the samples have more than {MOST_SHAPES} combinations of input shapes, and enable_cuda_graph "
                    "keeps a graph for each: use samples of few shapes, or turn it off",
                )
            slot = self._slots[key] = self._bind(feeds)
            slot.options = self._ort.RunOptions()
            slot.options.add_run_config_entry(GRAPH_ID, str(len(self._slots)))
        return Held(self._slots[key], dict(feeds))

    def prepare(self, held: Held) -> None:
        """Copy a sample into the buffers that it shares with others of its shapes; elsewhere there is nothing to do."""
        for name, array in (held.feeds or {}).items():
            held.slot.inputs[name].update_inplace(array)

    def run(self, names: None, held: Held) -> None:
        """Run a sample that was prepared, and wait for the device. The first run of a captured slot captures it.

        :param names: ``None``, as ``session.run`` takes it: all outputs.
        """
        self._session.run_with_iobinding(held.slot.binding, held.slot.options)
        held.slot.binding.synchronize_outputs()

    def rehearse(self, held: Held) -> None:
        """Run without capturing, node by node, so that a profile has the nodes."""
        self._session.run_with_iobinding(held.slot.binding, self._uncaptured())
        held.slot.binding.synchronize_outputs()

    def answer(self, held: Held) -> list[Any]:
        """Run a sample and return its outputs in host memory.

        :raises JobError: kind ``unsupported``, for an output whose type numpy does not know.
        """
        for entry in self._session.get_outputs():
            if ort_dtype(entry.type) in NARROW:
                raise JobError(
                    "unsupported",
                    f"output {entry.name!r} is {ort_dtype(entry.type)}, which cannot be read back from a CUDA graph's "
                    "buffers: turn enable_cuda_graph off",
                )
        self.prepare(held)
        self.run(None, held)
        return list(held.slot.binding.copy_outputs_to_cpu())

    def _bind(self, feeds: Mapping[str, Any]) -> _Slot:
        make, binding = self._ort.OrtValue.ortvalue_from_numpy, self._session.io_binding()
        inputs = {}
        for name, array in feeds.items():
            here = self._input_here.get(name, True)
            own = array.copy() if self.captured else array  # in host memory a value is the array: others come into it
            inputs[name] = make(own, self._device, self._index) if here else make(own)
            binding.bind_ortvalue_input(name, inputs[name])
        entries = self._session.get_outputs()
        for entry in entries:
            here = self._output_here.get(entry.name, True) and _movable(entry.type)
            binding.bind_output(entry.name, *((self._device, self._index) if here else ()))
        self._session.run_with_iobinding(binding, self._uncaptured())
        binding.synchronize_outputs()
        outputs = binding.get_outputs()
        for entry, value in zip(entries, outputs, strict=True):
            if _movable(entry.type):  # what was allocated for the first run serves all others
                binding.bind_ortvalue_output(entry.name, value)
        return _Slot(binding, inputs, list(outputs))

    def _uncaptured(self) -> Any:
        if not self.captured:
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry(GRAPH_ID, "-1")
        return options


Runner = Plain | Bound
"""What times and answers: both take a sample with ``hold``, then ``prepare`` (not timed) and ``run`` (timed)."""


def runner(ort: Any, session: Any, providers: Sequence[Sequence[Any]], how: Mapping[str, Any]) -> Runner:
    """Return what a job's samples are run with.

    :param how: the job's session options; ``io_binding`` names the device's memory where tensors are bound to it.
    :raises JobError: kind ``unsupported``, when CUDA graphs are asked for without bound tensors.
    """
    options = dict(providers[0][1] or {}) if providers else {}
    captured = captures(providers)
    device = str(how.get("io_binding") or "")
    strange = [entry for entry in session.get_inputs() if not _movable(entry.type) or _is_narrow(entry.type)]
    if captured and strange:
        raise JobError(
            "unsupported",
            f"input {strange[0].name!r} is {ort_dtype(strange[0].type)}, which cannot be bound to fixed buffers as a "
            "CUDA graph needs it: turn enable_cuda_graph off",
        )
    if device and not strange:  # ORT binds neither strings nor sequences, and narrow types are made in host memory
        return Bound(ort, session, device, int(options.get("device_id", 0)), captured=captured)
    if captured:
        raise JobError(
            "unsupported",
            "enable_cuda_graph replays fixed addresses, so inputs and outputs must be bound: remove io_binding = false",
        )
    return Plain(ort, session)


def _on_device(session: Any, kind: str, device: str) -> dict[str, bool]:
    """Ask a session where it wants its inputs or makes its outputs; nothing where ORT does not tell (before 1.23).

    A small integer input that only shapes are made from is wanted in host memory, whatever the EP.
    """
    ask = getattr(session, f"get_{kind}_memory_infos", None)
    if ask is None:
        return {}
    entries = session.get_inputs() if kind == "input" else session.get_outputs()
    return {entry.name: str(info.name).lower() == device for entry, info in zip(entries, ask(), strict=True)}


def _movable(kind: str) -> bool:
    return kind.startswith("tensor(") and kind != "tensor(string)"


def _is_narrow(kind: str) -> bool:
    return ort_dtype(kind) in NARROW
