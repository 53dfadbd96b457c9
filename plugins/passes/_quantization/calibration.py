"""Ranges of a model's activations, measured on calibration samples that are read one at a time.

ONNX Runtime's calibrators keep every output of every sample until the last one was run, or, told to merge after each,
make histograms whose bins depend on the first sample. Here its augmented model (the one that puts out the tensors in
question) is run by ourselves: MinMax in one walk over the samples, the methods with histograms in two, the first of
which finds the range that the histogram is for. Memory is that of one sample.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._models import loading, model_file, onnx_graph
from . import float8_types, histograms, remedies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    Feed = Mapping[str, Any]
    Floats = NDArray[np.float64]

__all__ = ["Method", "Range", "SampleReader", "given", "measure"]


@dataclass(frozen=True)
class Range:
    """What a tensor's values span, and what spread ONNX Runtime takes the scale of 8-bit floats from."""

    lowest: float
    highest: float
    mean: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True)
class Method:
    """How ranges are taken from the samples.

    :param name: ``MinMax``, ``Entropy``, ``Percentile`` or ``Distribution``.
    :param percentile: share of the values that stay inside, in percent. :param bins: of the histograms.
    :param symmetric: centre ranges on zero. ONNX Runtime does so for Percentile and not for MinMax.
    :param smoothing: for MinMax, the weight of a new sample in a moving average of the ranges; 0 for none.
    """

    name: str
    percentile: float = 99.999
    bins: int = 2048
    symmetric: bool = False
    smoothing: float = 0.0


class SampleReader:
    """Calibration samples, checked against the model's inputs; each ``iter()`` begins anew.

    ``read`` counts the samples of the walk in progress, ``running`` says that the model has one, for messages.
    ``watch`` sees each sample of the first walk.
    """

    def __init__(
        self,
        feeds: Callable[[], Iterable[dict[str, Any]]],
        count: int,
        inputs: Iterable[str],
        watch: Callable[[Feed], None] | None = None,
    ) -> None:
        self._feeds = feeds
        self._count = count
        self._inputs = frozenset(inputs)
        self._watch = watch
        self.read = 0
        self.running = False
        self.last: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the samples, without what is no input of the model.

        :raises ValueError: a sample lacks an input, or has NaN in it.
        """
        watch, self._watch, self.read = self._watch, None, 0
        for feed in self._feeds():
            if missing := self._inputs - feed.keys():
                raise ValueError(
                    f"Calibration sample {self.read} lacks the model's input {', '.join(sorted(missing))} "
                    f"(it has {', '.join(sorted(feed))}). Give the dataset the model's input names."
                )
            self.read += 1
            known = {name: value for name, value in feed.items() if name in self._inputs}
            for name, value in known.items():
                # A number that is not itself is NaN.
                if value.dtype.kind == "f" and bool((value != value).any()):
                    raise ValueError(
                        f"Calibration sample {self.read - 1} has NaN in the input {name}. Check what makes the data."
                    )
            if watch is not None:
                watch(known)
            self.running = True
            self.last = known
            yield known
            self.running = False


def measure(
    model: Path, op_types: Sequence[str], method: Method, reader: SampleReader, *, scratch: Path
) -> dict[str, Range]:
    """Run a model on all samples and return the ranges of the tensors that operators of ``op_types`` touch.

    :param scratch: a file name for the augmented model, in the model's folder: it uses the same external data.
    :raises ValueError: a sample does not fit the model's inputs, or a tensor is NaN.
    :raises RuntimeError: the model does not run on a sample.
    """
    kind = "MinMax" if method.name == "MinMax" else "Percentile"
    try:
        session = _augmented(model, op_types, kind, scratch)
        if not session.tensors:
            return {}
        if method.name == "MinMax":
            return _reduced(session, method, reader)
        return _from_histograms(session, method, reader)
    except ValueError:
        raise
    except Exception as problem:
        if not reader.running:
            raise remedies.QuantizerError(
                f"ONNX Runtime cannot make the model that calibration runs: {model_file.first_sentence(problem)}"
            ) from problem
        raise RuntimeError(
            f"Calibration stopped at sample {reader.read} of {len(reader)}: {model_file.first_sentence(problem)} "
            f"{_whether_it_runs(model, reader.last)}"
        ) from problem


def _whether_it_runs(model: Path, feed: Mapping[str, Any]) -> str:

    return loading.whether_it_runs(model, feed)


@dataclass
class _Session:
    """The augmented model's session, and the tensors that calibration is about."""

    session: Any
    tensors: list[str]

    def outputs(self, names: Sequence[str], feed: Feed) -> list[Any]:
        found: list[Any] = self.session.run(list(names), feed)
        return found


def _augmented(model: Path, op_types: Sequence[str], kind: str, scratch: Path) -> _Session:
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with _quiet(), _weights_left_alone():
        calibrator = create_calibrator(
            model,
            list(op_types),
            augmented_model_path=str(scratch),
            calibrate_method=CalibrationMethod[kind],
        )
    session = calibrator.infer_session
    if kind != "MinMax":
        return _Session(session, sorted(calibrator.tensors_to_calibrate))
    # "<tensor>_ReduceMin" and "<tensor>_ReduceMax" follow the model's own outputs, in pairs.
    added = [output.name for output in session.get_outputs()][calibrator.num_model_outputs :]
    return _Session(session, [name.rpartition("_")[0] for name in added[::2]])


@contextlib.contextmanager
def _weights_left_alone() -> Iterator[None]:
    """Let ONNX Runtime's calibrators add nodes to a model without reading and writing weights that lie beside it."""
    module: Any = importlib.import_module("onnxruntime.quantization.calibrate")
    original = module.load_model_with_shape_infer
    module.load_model_with_shape_infer = _inferred
    try:
        yield
    finally:
        module.load_model_with_shape_infer = original


def _inferred(path: Path) -> ModelProto:
    import onnx
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    made = path.with_name(f"{path.stem}-inferred.onnx")
    onnx.shape_inference.infer_shapes_path(str(path), str(made))
    model = onnx.load(str(made), load_external_data=False)
    made.unlink()
    add_infer_metadata(model)
    return model


def _reduced(session: _Session, method: Method, reader: SampleReader) -> dict[str, Range]:
    import numpy as np

    names = [f"{tensor}_{reduce}" for tensor in session.tensors for reduce in ("ReduceMin", "ReduceMax")]
    total: Floats | None = None
    has_nan = np.zeros(len(session.tensors), bool)
    for feed in reader:
        # Of an empty tensor the least is infinite and the greatest minus infinite: it says nothing.
        empty = (np.inf, -np.inf)
        values = [one.ravel()[0] if one.size else empty[n % 2] for n, one in enumerate(session.outputs(names, feed))]
        found = np.array(values, np.float64).reshape(-1, 2)
        has_nan |= np.isnan(found).any(axis=1)
        found[found[:, 0] > found[:, 1]] = np.nan
        if total is None:
            total = found
        elif method.smoothing:
            total = total + method.smoothing * (found - total)
        else:
            total = np.stack([np.fmin(total[:, 0], found[:, 0]), np.fmax(total[:, 1], found[:, 1])], axis=1)
    if total is not None:
        has_nan &= np.isnan(total).any(axis=1)
        if has_nan.any():
            raise _nan_made(session.tensors[int(has_nan.argmax())], "every")
    return _ranges(session.tensors, total, symmetric=method.symmetric)


def _nan_made(tensor: str, samples: str) -> ValueError:
    return ValueError(
        f"The float model itself gives NaN in {tensor} on {samples} calibration sample. "
        "Check the sample's values, and that the model is right in float."
    )


def _ranges(tensors: Sequence[str], extremes: Floats | None, *, symmetric: bool) -> dict[str, Range]:
    import numpy as np

    if extremes is None:
        return {}
    # Of a tensor that was empty in every sample nothing is known.
    finite = np.where(np.isnan(extremes), 0.0, extremes)
    made = {}
    for name, (low, high) in zip(tensors, finite, strict=True):
        reach = max(abs(low), abs(high))
        made[name] = Range(-reach, reach) if symmetric else Range(float(low), float(high))
    return made


@dataclass
class _Seen:
    """Of one tensor, over all samples: extremes, moments, and (second walk) a histogram."""

    lowest: float = float("inf")
    highest: float = float("-inf")
    smallest: float = float("inf")
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    histogram: Any = None
    edges: Any = field(default=None, repr=False)

    @property
    def reach(self) -> float:
        return max(abs(self.lowest), abs(self.highest))

    @property
    def is_ordinary(self) -> bool:
        """Whether a histogram makes sense: there are values, they differ, and none is a mask's infinity."""
        return self.count > 0 and 0 < self.reach < onnx_graph.MASK_MAGNITUDE


def _from_histograms(session: _Session, method: Method, reader: SampleReader) -> dict[str, Range]:

    seen = {name: _Seen() for name in session.tensors}
    for feed in reader:
        for name, values in zip(session.tensors, session.outputs(session.tensors, feed), strict=True):
            _observe(seen[name], name, values, moments=method.name == "Distribution")
    if method.name != "Distribution":
        for feed in reader:
            for name, values in zip(session.tensors, session.outputs(session.tensors, feed), strict=True):
                if seen[name].is_ordinary and values.size:
                    _count(seen[name], values, method)
    return {name: _summary(one, method) for name, one in seen.items()}


def _count(one: _Seen, values: Any, method: Method) -> None:
    """Add values to a tensor's histogram: of magnitudes for a symmetric percentile, else even around zero."""
    import numpy as np

    absolute = method.name == "Percentile" and method.symmetric
    low, high = (one.smallest, one.reach) if absolute else (-one.reach, one.reach)
    width = (high - low) / method.bins or 1.0
    flat = np.abs(values).ravel() if absolute else values.ravel()
    # numpy.histogram takes three times as long, to be exact about values on the edges of bins.
    places = ((flat.astype(np.float32, copy=False) - np.float32(low)) * np.float32(1 / width)).astype(np.int32)
    counts = np.bincount(np.clip(places, 0, method.bins - 1, out=places), minlength=method.bins)
    if one.histogram is None:
        one.histogram, one.edges = counts, low + width * np.arange(method.bins + 1)
    else:
        one.histogram += counts


def _observe(one: _Seen, name: str, values: Any, *, moments: bool) -> None:
    import numpy as np

    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    if np.isnan(low):
        raise _nan_made(name, "a")
    one.lowest, one.highest = min(one.lowest, low), max(one.highest, high)
    one.smallest = min(one.smallest, float(np.abs(values).min()))
    one.count += values.size
    if moments:
        wide = values.astype(np.float64)
        one.total += float(wide.sum())
        one.squares += float(np.square(wide).sum())


def _summary(one: _Seen, method: Method) -> Range:
    if one.count == 0:
        return Range(0.0, 0.0)
    if method.name == "Distribution":
        mean = one.total / one.count
        spread = max(one.squares / one.count - mean * mean, 0.0) ** 0.5
        return Range(-one.reach, one.reach, mean, spread)
    if one.histogram is None:
        return Range(one.lowest, one.highest)
    if method.name == "Entropy":
        cut = histograms.entropy_threshold(one.histogram, one.edges)
        low, high = -cut, cut
    else:
        low, high = histograms.percentile_range(one.histogram, one.edges, method.percentile, symmetric=method.symmetric)
    return Range(max(low, one.lowest), min(high, one.highest))


@contextlib.contextmanager
def given(ranges: Mapping[str, Range], method: str, *, float8: bool) -> Iterator[None]:
    """Make ``quantize_static`` take these ranges, instead of calibrating once more.

    It has no parameter for that in all versions, so what makes its calibrator is replaced for as long as it runs.
    """
    # "onnxruntime.quantization.quantize" as an attribute is a function of that name; the module is found this way.
    module: Any = importlib.import_module("onnxruntime.quantization.quantize")
    original = module.create_calibrator
    measured = _Measured(ranges, method, float8)
    module.create_calibrator = lambda *args, **options: measured
    try:
        with _quiet():
            yield
    finally:
        module.create_calibrator = original


class _Measured:
    """What ``quantize_static`` uses of a calibrator."""

    def __init__(self, ranges: Mapping[str, Range], method: str, float8: bool) -> None:
        self._ranges, self._method, self._float8 = ranges, method, float8

    def collect_data(self, reader: object) -> None:
        """Read nothing: that was done."""

    def compute_data(self) -> Any:
        import numpy as np
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

        made = {}
        for name, one in self._ranges.items():
            numbers = {"lowest": one.lowest, "highest": one.highest}
            if self._float8:
                numbers |= {"avg": one.mean, "std": one.deviation or self._deviation(one)}
            made[name] = TensorData(**{key: np.array(value, np.float32) for key, value in numbers.items()})
        return TensorsData(CalibrationMethod[self._method], made)

    def _deviation(self, one: Range) -> float:
        """Return the deviation from which ONNX Runtime makes the scale that just holds the range."""
        reach = max(abs(one.lowest), abs(one.highest)) or 1.0
        return reach / float8_types.LARGEST * float8_types.deviation_of_all()


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keep what ONNX Runtime prints about its progress off the worker's output."""
    return contextlib.redirect_stdout(io.StringIO())
