"""Calls ONNX Runtime's transformer scripts: without torch, with their hints caught instead of lost in a log.

The scripts say what they miss with ``print`` and ``logging`` and go on. Runs inside a runtime beside the pass that
imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._models import model_file, ort_graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

__all__ = ["Fused", "fuse", "fuse_what_works", "known_types", "optimized_first"]

MOST_HINTS: Final = 8

BEFORE_FUSIONS: Final = (
    "MatMulScaleFusion",
    "MatMulAddFusion",
    "MatmulTransposeFusion",
    "GemmActivationFusion",
    "BiasSoftmaxFusion",
)
"""Optimizations above level basic that hide attention from the scripts' patterns; optimizer.py leaves them out, too."""

SWITCHES: Final = (
    "disable_gelu",
    "disable_bias_gelu",
    "disable_layer_norm",
    "disable_skip_layer_norm",
    "disable_bias_skip_layer_norm",
    "disable_embed_layer_norm",
    "disable_rotary_embeddings",
    "disable_attention",
)
"""Options that switch off a fusion: QuickGelu fails on the Sigmoid and Mul that opset 24's Swish becomes (1.32.0)."""

SHARED_CONSTANTS: Final = "ConstantSharing"
"""The one of level basic that does so."""


@dataclass(frozen=True)
class Fused:
    """A fused model, and what the scripts said of it.

    :param left_out: the option that switches off a fusion that fails on this model, and why it fails; empty: none does.
    """

    model: ModelProto
    hints: Sequence[str]
    left_out: tuple[str, str] | tuple[()] = ()


def known_types() -> Mapping[str, Any]:
    """Return the model types of the installed ONNX Runtime."""
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    found: Mapping[str, Any] = MODEL_TYPES
    return found


def optimized_first(
    source: Path,
    saved: Path,
    *,
    level: str,
    providers: Sequence[tuple[str, Mapping[str, str]]],
    only: bool,
    split: bool,
) -> None:
    """Save ONNX Runtime's own optimizations, without those that hide a graph from the fusions.

    :param only: no fusions follow, so none has to be left out. :param split: weights go beside the model.
    :raises NotImplementedError: the EP compiles parts of the graph, which cannot be saved.
    :raises RuntimeError: ONNX Runtime cannot load, optimize or save the model.
    """
    disabled = [SHARED_CONSTANTS, *(BEFORE_FUSIONS if level != "basic" and not only else ())]
    try:
        ort_graph.save_graph(source, saved, level=level, providers=providers, split=split, disabled=disabled)
    except Exception as problem:
        why = model_file.first_line(problem)
        if "compiled nodes" in str(problem):
            raise NotImplementedError(
                f"{providers[0][0]} compiles parts of the graph for itself, and such a graph cannot be saved ({why}). "
                "Leave use_gpu out, or use opt_level = 0."
            ) from problem
        raise RuntimeError(f"ONNX Runtime's own optimizations failed: {why} Use opt_level = 0.") from problem


def fuse_what_works(start: Path, settings: Mapping[str, Any], *, num_heads: int, hidden_size: int) -> Fused:
    """Do what :func:`fuse` does; where it fails, without the one fusion that fails.

    :raises RuntimeError: the scripts fail on this graph without any one of the fusions, too, or it does not load.
    """
    try:
        return fuse(start, settings, num_heads=num_heads, hidden_size=hidden_size)
    except RuntimeError as failure:
        for option in SWITCHES if _loads(start) else ():
            if settings.get(option):
                continue
            with contextlib.suppress(RuntimeError):
                made = fuse(start, {**settings, option: True}, num_heads=num_heads, hidden_size=hidden_size)
                return Fused(made.model, made.hints, (option, model_file.first_line(failure.__cause__ or failure)))
        raise


def _loads(path: Path) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def fuse(start: Path, settings: Mapping[str, Any], *, num_heads: int, hidden_size: int) -> Fused:
    """Let the scripts look for the patterns of a model type, and do what else they are told, in optimizer.py's order.

    :param settings: options by the names of optimizer.py's parser, all of them.
    :raises RuntimeError: the scripts fail on this graph.
    """
    from argparse import Namespace

    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    model_type = settings["model_type"]
    with _overheard(verbose=settings["verbose"]) as hints:
        try:
            made = optimizer.optimize_model(
                str(start),
                model_type=model_type,
                num_heads=num_heads,
                hidden_size=hidden_size,
                optimization_options=FusionOptions.parse(Namespace(**settings)),
                opt_level=0,
            )
            _convert(made, settings)
        except Exception as problem:
            line, kind = model_file.first_sentence(problem), type(problem).__name__
            said = f" It said: {' | '.join(hints[:3]).rstrip('.')}." if hints else ""
            raise RuntimeError(
                f"The fusions for {model_type} failed on this model: "
                f"{line if line.startswith(kind) else f'{kind}: {line}'}{said} Is model_type right?"
            ) from problem
    return Fused(made.model, tuple(hints[:MOST_HINTS]))


def _convert(made: Any, settings: Mapping[str, Any]) -> None:
    if settings["float16"]:
        made.convert_float_to_float16(keep_io_types=settings["keep_io_types"])
    if settings["input_int32"]:
        made.change_graph_inputs_to_int32()
    if settings["convert_to_packing_mode"]:
        made.convert_to_packing_mode(not settings["disable_symbolic_shape_infer"])


@contextlib.contextmanager
def _overheard(*, verbose: bool) -> Iterator[list[str]]:
    """Collect what is printed and logged as a warning, each sentence once; ``verbose``: all of it goes to stderr."""
    hints: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())
            if record.levelno >= logging.WARNING and text not in hints:
                hints.append(text)
            if verbose:
                sys.stderr.write(f"{record.filename}:{record.lineno} {text}\n")

    root, printed = logging.getLogger(), io.StringIO()
    before, others = root.level, root.handlers[:]
    root.handlers[:] = [Collect()]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        with contextlib.redirect_stdout(printed):
            yield hints
    finally:
        root.handlers[:] = others
        root.setLevel(before)
        lines = dict.fromkeys(line.strip() for line in printed.getvalue().splitlines() if line.strip())
        hints += [line[:300] for line in lines if line not in hints]
        if verbose:
            sys.stderr.write(printed.getvalue())
