"""Runs a session on values in host memory, whatever their types: narrow ones, strings, sequences, maps, optionals.

``InferenceSession.run`` takes everything except tensors whose type numpy lacks; those are passed as ``OrtValue``, which
it accepts beside arrays (ONNX Runtime 1.20 and newer). It cannot return such tensors, nor refuses to: 1.32 returns
``float8e4m3fn`` as uint8. So outputs of narrow types are read from OrtValues. ``run_with_ort_values`` in turn takes
tensors of numbers only, and its OrtValues of absent optionals end the process when their type is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .narrow_types import NARROW
from .protocol import JobError
from .structure import is_plain, type_name
from .tensors import narrow_value, widen

__all__ = ["HostValues"]


class HostValues:
    """Feeds and answers of one session.

    :raises JobError: kind ``unsupported``, when the Python API of ONNX Runtime cannot pass these inputs and outputs.
    """

    def __init__(self, ort: Any, session: Any) -> None:
        self._ort, self._session = ort, session
        inputs = {entry.name: type_name(entry.type) for entry in session.get_inputs()}
        inputs |= {entry.name: type_name(entry.type) for entry in session.get_overridable_initializers()}
        outputs = {entry.name: type_name(entry.type) for entry in session.get_outputs()}
        for which, types in (("input", inputs), ("output", outputs)):
            for name, kind in types.items():
                _refuse_nested(ort, which, name, kind)
        self._narrow_inputs = {name: kind for name, kind in inputs.items() if kind in NARROW}
        self._names = list(outputs)
        self.widened = tuple(name for name, kind in outputs.items() if kind in NARROW)
        self._numbers = [name for name, kind in outputs.items() if _is_numeric(kind)] if self.widened else []
        self._others = [name for name in self._names if name not in self._numbers] if self.widened else []
        strange = next((name for name, kind in inputs.items() if not _is_numeric(kind)), None)
        if self.widened and strange is not None:
            raise JobError(
                "unsupported",
                f"output {self.widened[0]!r} is {outputs[self.widened[0]]} and input {strange!r} is "
                f"{inputs[strange]}: the Python API of onnxruntime {ort.__version__} returns the one only where it "
                "does not take the other",
            )
        self.run: Callable[..., Any] = self._run_values if self.widened else session.run

    def hold(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample as :meth:`run` takes it."""
        held = dict(feeds)
        for name, array in feeds.items():
            if name in self._narrow_inputs:
                held[name] = narrow_value(self._ort, array, self._narrow_inputs[name], name)
            elif self.widened:
                held[name] = self._ort.OrtValue.ortvalue_from_numpy(array)
        return held

    def answer(self, held: Mapping[str, Any]) -> list[Any]:
        """Return a sample's outputs in order; those of narrow types are widened."""
        if not self.widened:
            return list(self._session.run(None, held))
        values = dict(zip(self._numbers, self._run_values(self._numbers, held), strict=True))
        answers = {name: widen(value) if name in self.widened else value.numpy() for name, value in values.items()}
        if self._others:  # neither call returns all of them
            answers |= dict(zip(self._others, self._session.run(self._others, held), strict=True))
        return [answers[name] for name in self._names]

    def _run_values(self, names: list[str] | None, held: Mapping[str, Any]) -> list[Any]:
        return list(self._session.run_with_ort_values(names, held))


def _is_numeric(kind: str) -> bool:
    return is_plain(kind) and kind != "string"


def _refuse_nested(ort: Any, which: str, name: str, kind: str) -> None:
    """Refuse sequences and optionals of narrow types, which the Python API neither makes nor reads."""
    if not is_plain(kind) and any(f"({narrow})" in kind for narrow in NARROW):
        raise JobError(
            "unsupported",
            f"{which} {name!r} is {kind}, which the Python API of onnxruntime {ort.__version__} cannot pass",
        )
