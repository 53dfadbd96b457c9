"""Which passes cannot follow each other, in one place, with the reason and what to do instead.

Everything here is known from the recipe alone. What only the model can tell (it came quantized, or in half precision)
the passes say themselves, when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ortforge.api import Pass

__all__ = ["RULES", "Rule", "UsedPass", "why_not_after"]


@dataclass(frozen=True, slots=True)
class UsedPass:
    """A pass as a recipe has it. :param parameters: an instance of its parameter dataclass."""

    known: Pass
    parameters: Any

    @property
    def name(self) -> str:
        """The pass's name."""
        return self.known.name

    def get(self, parameter: str) -> Any:
        """Return a parameter's value, ``None`` where the pass has no such parameter."""
        return getattr(self.parameters, parameter, None)


@dataclass(frozen=True, slots=True)
class Rule:
    """What may not come after what. :param why: what is said after "PASS: "; ``{earlier}`` is the other's name."""

    earlier: Callable[[UsedPass], bool]
    later: Callable[[UsedPass], bool]
    why: str


def _named(*names: str) -> Callable[[UsedPass], bool]:
    return lambda used: used.name in names


def _quantizes(used: UsedPass) -> bool:
    return used.known.kind == "quantize"


def _halves(used: UsedPass) -> bool:
    return used.known.kind == "convert" or (used.name == "transformer-optimizer" and bool(used.get("float16")))


def _is_bound_to_a_layout(used: UsedPass) -> bool:
    if used.name == "optimize":
        return used.get("level") in ("layout", "all")
    return used.name == "transformer-optimizer" and used.get("opt_level") in (3, 99)


def _fuses(used: UsedPass) -> bool:
    return used.name == "optimize" and used.get("level") == "extended"


def _writes_ort(used: UsedPass) -> bool:
    return used.known.suffix == ".ort" or (used.name == "optimize" and used.get("format") == "ort")


def _reads_the_graph(used: UsedPass) -> bool:
    """Everything but what takes a file as it is: settings are searched for with any."""
    return used.name != "tune-session"


def _anything(used: UsedPass) -> bool:
    return True


RULES: Final[tuple[Rule, ...]] = (
    # What belongs to one very model, and is void when that changes.
    Rule(
        _named("tune-session"),
        _anything,
        "{earlier} comes before it, and its settings were measured on the model as it was then; put {earlier} last",
    ),
    Rule(
        _named("tensorrt-calibration"),
        _reads_the_graph,
        "{earlier} comes before it, and its table holds the ranges of the tensors that the model had then; put "
        "{earlier} after it, or leave one of the two out",
    ),
    Rule(
        _named("quantize-auto"),
        _reads_the_graph,
        "{earlier} comes before it, and what that chose was measured as it was made: changed, it may be slower or "
        "leave the tolerance; put this pass before the search, or leave it out",
    ),
    Rule(
        _writes_ort,
        _reads_the_graph,
        "{earlier} comes before it and writes ORT's own format, which no pass reads; put that last",
    ),
    # Quantized models.
    Rule(
        _quantizes,
        _named("quantize-auto"),
        "the recipe has quantized the model already; let the search begin from the float model",
    ),
    Rule(
        _quantizes,
        _named("tensorrt-calibration"),
        "the recipe has quantized the model already, and TensorRT takes ranges from a table or from QDQ, not both; "
        "use one of the two",
    ),
    Rule(
        _quantizes,
        _quantizes,
        "the recipe has quantized the model already; quantize once, from the float model",
    ),
    Rule(
        _quantizes,
        _halves,
        "the recipe has quantized the model already, and half precision would break its scales; use one of the two",
    ),
    Rule(
        _quantizes,
        _named("preprocess", "smooth-quant"),
        "it prepares a model for quantization, and the recipe has quantized it already; put it before {earlier}",
    ),
    Rule(
        _quantizes,
        _named("transformer-optimizer"),
        "its patterns are those of float models; put it before quantization ({earlier})",
    ),
    # Models in half precision.
    Rule(
        _halves,
        _named("transformer-optimizer"),
        "its patterns are those of float32 models, and the recipe has converted the model to half precision already; "
        "put it before {earlier}",
    ),
    Rule(
        _halves,
        lambda used: _quantizes(used) or used.name == "smooth-quant",
        "the recipe has converted the model to half precision already ({earlier}), and scales are taken from float32 "
        "weights; use one of the two",
    ),
    Rule(
        _halves,
        _halves,
        "the recipe has converted the model to half precision already ({earlier}); convert once, from the float32 "
        "model",
    ),
    # Graphs that hold fused operators.
    Rule(
        _fuses,
        _named("transformer-optimizer"),
        "{earlier} comes before it and fuses what its patterns look for, so that they find no attention; put {earlier} "
        "after it, or use level 'basic' there",
    ),
    # Graphs that are one CPU's.
    Rule(
        _is_bound_to_a_layout,
        lambda used: (
            _quantizes(used) or _halves(used) or used.name in ("preprocess", "smooth-quant", "transformer-optimizer")
        ),
        "{earlier} comes before it, with a level that binds the graph to one CPU's memory layout and kernels, which "
        "this pass does not know; put {earlier} after it, or use level 'basic' (opt_level 1) there",
    ),
)
"""Asked in this order: the first that holds is said."""


def why_not_after(before: Sequence[UsedPass], used: UsedPass) -> str:
    """Return why a pass cannot come after those before it in its recipe, or ``""``."""
    for rule in RULES:
        if rule.later(used):
            for earlier in before:
                if rule.earlier(earlier):
                    return rule.why.format(earlier=earlier.name)
    return ""
