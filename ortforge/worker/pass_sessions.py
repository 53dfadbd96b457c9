"""Lets passes run models whose inputs or outputs have types that numpy lacks, with the arrays that samples hold.

Passes, and the calibrators of ONNX Runtime that they call, open sessions of their own and feed them arrays. Where a
model has an input of bfloat16, say, the session takes float32 arrays here, and returns them for such outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .narrow_types import NARROW
from .tensors import narrow_value, ort_dtype, widen

__all__ = ["accept_narrow_types"]


def accept_narrow_types(ort: Any) -> None:
    """Replace ``InferenceSession`` by one whose ``run`` converts values of narrow types."""
    plain = ort.InferenceSession

    class InferenceSession(plain):  # type: ignore[misc, valid-type]
        def run(
            self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
        ) -> Any:
            inputs = {entry.name: ort_dtype(entry.type) for entry in self.get_inputs()}
            outputs = {entry.name: ort_dtype(entry.type) for entry in self.get_outputs()}
            feeds = {
                name: narrow_value(ort, value, inputs[name], name)
                if inputs.get(name) in NARROW and isinstance(value, np.ndarray)
                else value
                for name, value in input_feed.items()
            }
            names = list(output_names or outputs)
            if not any(outputs.get(name) in NARROW for name in names):
                return super().run(output_names, feeds, run_options)
            make = ort.OrtValue.ortvalue_from_numpy
            held = {name: make(value) if isinstance(value, np.ndarray) else value for name, value in feeds.items()}
            values = self.run_with_ort_values(names, held, run_options)
            return [
                widen(value) if outputs.get(name) in NARROW else value.numpy()
                for name, value in zip(names, values, strict=True)
            ]

    ort.InferenceSession = InferenceSession
