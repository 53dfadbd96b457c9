"""GPTQ: weights rounded one input channel after another, each correcting those that follow for its error.

Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022). With H = sum of x xT over the inputs x that calibration gives a weight, rounding channel i by an
error of e changes the others best by -e * U[i, i:] / U[i, i], where U is the upper Cholesky factor of the inverse of H.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._models import model_file
from .rounding import Blocks, codes_for, parameters_of, tabled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from .._quantization.calibration import SampleReader

    Array = NDArray[Any]

__all__ = ["hessians", "rounded"]

MEMORY: Final = 1 << 30
"""Bytes of second moments that are gathered in one walk over the samples; more activations take more walks."""

LAZY: Final = 128
"""Input channels whose corrections to all later ones are applied at once (the paper's block size)."""


def hessians(
    model: ModelProto, widths: Mapping[str, int], reader: SampleReader, scratch: Path
) -> Iterator[tuple[str, Array]]:
    """Yield for each activation its name and the sum of x xT over all rows x of all samples, [K, K] float64.

    :param widths: K of each activation by name. :param scratch: a file name for the model that puts them out.
    :raises ValueError: a sample does not fit the model's inputs, or a value is not finite.
    :raises RuntimeError: the model does not run on a sample.
    """
    waiting = dict(widths)
    while waiting:
        taken: dict[str, int] = {}
        for name, width in waiting.items():
            if taken and 8 * (sum(w * w for w in taken.values()) + width * width) > MEMORY:
                break
            taken[name] = width
        for name in taken:
            del waiting[name]
        yield from _gathered(model, taken, reader, scratch).items()


def _gathered(model: ModelProto, widths: Mapping[str, int], reader: SampleReader, scratch: Path) -> dict[str, Array]:
    import numpy as np
    import onnxruntime

    outputs, names = model.graph.output, list(widths)
    count, known = len(outputs), {value.name for value in outputs}
    inputs = {value.name for value in model.graph.input}
    for name in names:
        if name not in known and name not in inputs:
            outputs.add(name=name)
    try:
        model_file.save(model, scratch, ir_version=model.ir_version)
    finally:
        del outputs[count:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sums = {name: np.zeros((width, width)) for name, width in widths.items()}
    fetched = [name for name in names if name not in inputs]
    try:
        session = onnxruntime.InferenceSession(str(scratch), options, providers=["CPUExecutionProvider"])
        for feed in reader:
            values = dict(zip(fetched, session.run(fetched, feed), strict=True)) if fetched else {}
            for name, width in widths.items():
                rows = (values[name] if name in values else feed[name]).reshape(-1, width)
                if not np.isfinite(rows).all():
                    raise ValueError(
                        f"Tensor {name} is not finite on calibration sample {reader.read - 1}: GPTQ needs its sums. "
                        "Look at that sample, or leave the nodes that read the tensor out with nodes_to_exclude."
                    )
                sums[name] += (rows.T @ rows).astype(np.float64)
    except ValueError:
        raise
    except Exception as problem:
        raise RuntimeError(
            f"The model, with the inputs of its products put out, does not run on calibration sample {reader.read} of "
            f"{len(reader)}: {model_file.first_sentence(problem)} If the model runs without this pass, the data are "
            "not at fault; otherwise check that they have the shapes and types of the model's inputs."
        ) from problem
    return sums


def rounded(weight: Array, hessian: Array, *, bits: int, block: int, symmetric: bool, damping: float) -> Blocks:
    """Round a weight [K, N] in blocks along K; scales are taken when a block is reached, from its corrected weights.

    :param hessian: [K, K]. :param damping: share of its mean diagonal that is added to it.
    :raises ValueError: the hessian has no Cholesky factor with this damping.
    """
    import numpy as np

    depth, width = weight.shape
    left: Array = weight.astype(np.float64)
    inverse = _inverse_factor(hessian, damping)
    blocks = -(-depth // block)
    codes = np.zeros((width, blocks, block), np.uint8)
    scales, zero_points = np.zeros((width, blocks), np.float32), np.zeros((width, blocks), np.float32)
    step = block * -(-LAZY // block)
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        errors = np.zeros((stop - start, width))
        for place in range(start, stop):
            at, inside = divmod(place, block)
            if inside == 0:
                found = parameters_of(tabled(left[place : place + block].T, block), bits, symmetric)
                scales[:, at], zero_points[:, at] = (values[:, 0] for values in found)
            scale, zero = scales[:, at], zero_points[:, at]
            row = codes_for(left[place][:, None, None], scale[:, None], zero[:, None], bits)[:, 0, 0]
            codes[:, at, inside] = row
            error = (left[place] - (row - zero) * scale) / inverse[place, place]
            left[place:stop] -= inverse[place, place:stop, None] * error
            errors[place - start] = error
        left[stop:] -= inverse[start:stop, stop:].T @ errors
    # What fills a last block up stands for zero, as the operator takes it.
    if depth % block:
        codes[:, -1, depth % block :] = zero_points[:, -1:].astype(np.uint8)
    return Blocks(codes, scales, zero_points.astype(np.uint8), bits, depth)


def _inverse_factor(hessian: Array, damping: float) -> Array:
    """Return U, upper triangular, with UT U the inverse of the damped hessian."""
    import numpy as np

    damped = hessian.copy()
    diagonal = np.arange(len(damped))
    # A channel that is always zero may be rounded as it likes.
    silent = damped[diagonal, diagonal] == 0
    damped[diagonal[silent], diagonal[silent]] = 1
    damped[diagonal, diagonal] += damping * float(np.mean(damped[diagonal, diagonal]))
    try:
        factor: Array = np.linalg.cholesky(np.linalg.inv(damped)).T
    except np.linalg.LinAlgError as problem:
        raise ValueError(
            f"GPTQ finds no solution for a layer with these calibration samples ({problem}): its inputs are too much "
            "alike. Give more samples, or raise damping."
        ) from problem
    return factor
