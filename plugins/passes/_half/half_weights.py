"""Weights in half precision, made once and beside the graph that is converted.

The converters take a model with its weights through shape inference, and look at every weight six times. What they do
to one is simple, and done here with the same values; what they decide is which weights become float16.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto, ValueInfoProto

__all__ = ["LARGEST_HALF", "Weights", "by_shape", "halved"]

LARGEST_HALF: Final = 65504.0
"""Largest finite float16 (IEEE 754 binary16)."""


def halved(values: NDArray[np.float32], min_positive: float) -> NDArray[np.float16]:
    """Return values in half precision as both converters make them.

    Values below ``min_positive`` become it, those beyond :data:`LARGEST_HALF` become that, each with its sign; zeros,
    infinities and NaN stay.
    """
    import numpy as np

    size = np.abs(values)
    tiny = size < np.float32(min_positive)
    if tiny.any():
        values = np.where(tiny & (size > 0), np.copysign(np.float32(min_positive), values), values)
    large = size > np.float32(LARGEST_HALF)
    if large.any():
        values = np.where(large & (size < np.inf), np.copysign(np.float32(LARGEST_HALF), values), values)
    return values.astype(np.float16)


class Weights:
    """The data of the weights of an outline; each is halved once, however many conversions want it.

    :param data: the bytes of each, by name; :param kinds: the type that they are in.
    """

    def __init__(self, data: Mapping[str, bytes | memoryview], kinds: Mapping[str, int], min_positive: float) -> None:
        self._data, self._kinds, self._min_positive = data, kinds, min_positive
        self._halved: dict[str, bytes] = {}

    def of(self, made: ModelProto) -> dict[str, bytes | memoryview]:
        """Return the data of a converted outline's weights, in the types that the converter chose."""
        from onnx import TensorProto

        return {
            tensor.name: self._half(tensor.name)
            if tensor.data_type == TensorProto.FLOAT16 and self._kinds[tensor.name] == TensorProto.FLOAT
            else self._data[tensor.name]
            for tensor in made.graph.initializer
            if tensor.name in self._data
        }

    def _half(self, name: str) -> bytes:
        import numpy as np

        if name not in self._halved:
            self._halved[name] = halved(np.frombuffer(self._data[name], "<f4"), self._min_positive).tobytes()
        return self._halved[name]


@contextlib.contextmanager
def by_shape(converter: Any) -> Iterator[None]:
    """Let a converter, a module, take the shape of a weight that has no data from what the weight says of itself."""
    original = getattr(converter, "make_value_info_from_tensor", None)
    if original is None:
        yield
        return

    def described(tensor: TensorProto) -> ValueInfoProto:
        from onnx import helper

        made: ValueInfoProto = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        return made

    converter.make_value_info_from_tensor = described
    try:
        yield
    finally:
        converter.make_value_info_from_tensor = original
