"""The text of a first matrix.toml for the models at hand: small, complete, and honest about its made-up data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from ortforge.errors import UsageError, nearest
from ortforge.matrix.config import ReferenceConfig
from ortforge.matrix.fields import name_problem
from ortforge.matrix.schema import SCHEMA_FILE

__all__ = ["initial"]

_HEAD: Final = f"""\
#:schema ./{SCHEMA_FILE}
# What ortforge runs: every model, with every recipe, on every target. 'ortforge plan' shows it, 'ortforge run' does it.
"""

_FIRST_MODEL: Final = """
# RANDOM DATA: numbers made up from the model's input shapes. They show whether a cell runs, and how fast; they are
# never enough to say that a quantized model is right. Put real inputs in their place, one of
#   validation = "path:data/validation.npz"         # an .npz whose arrays are named as the inputs; or a folder of them
#   validation = "python:inputs.py:validation"      # a function that yields {input name: array}
# and, for static quantization, others of the same kind as calibration.
# Where a model fails on made-up shapes, name others:
#   validation = { source = "random:", options = { shapes = { input = [1, 512] } } }
"""

_TAIL: Final = """
[targets.stock]                                     # published wheels; a second target is compared with the first
from = "package"
requires = {requires}
eps = ["cpu"]                                       # 'ortforge plugins list' lists what there is

# The recipe "none", the model as it is, is always there.

[recipes.int8-dynamic]
summary = "int8 weights, activations quantized while running"
passes = [{{ use = "quantize-dynamic", per_channel = true }}]

# Static quantization needs real calibration data: give the models some, then take the "#" away.
# [recipes.int8-static]
# summary = "int8 weights and activations, calibrated"
# passes = [{{ use = "preprocess" }}, {{ use = "quantize-static", per_channel = true }}]

[[matrix]]                                          # all with all; 'exclude' takes combinations out
targets = ["*"]
models = ["*"]
recipes = ["*"]
"""


def initial(models: Sequence[Path], out: Path) -> str:
    """Return the text of a matrix file that runs the given models on one published ONNX Runtime.

    :param models: ``.onnx`` files; references to them are written relative to the folder of ``out``.
    :raises UsageError: a model is not there or is no ``.onnx`` file, or none is given; all of them are named.
    """
    if not models:
        raise UsageError("No model is given.", todo="Name one or more .onnx files: ortforge init MODEL.onnx …")
    if problems := [problem for model in models if (problem := _problem(model))]:
        raise UsageError("\n".join(problems), todo="Name .onnx files that exist.")
    folder = out.resolve().parent
    text = _HEAD
    # A link is kept, not followed: its name is the one that people know, and external data lie beside it.
    distinct: dict[Path, Path] = {}
    for model in models:
        distinct.setdefault(model.resolve(), model.absolute())
    for number, (model, name) in enumerate(zip(distinct.values(), _names(distinct.values()), strict=True)):
        table = f"[models.{name if re.fullmatch(r'[A-Za-z0-9_-]+', name) else _quote(name)}]"
        reference = Path(os.path.relpath(model, folder)).as_posix()
        text += f"{_FIRST_MODEL if number == 0 else chr(10)}{table}\npath = {_quote('path:' + reference)}\n"
        text += f'validation = "random:"{" " * 30}# made up: see above\n'
    requires = ", ".join(_quote(requirement) for requirement in ReferenceConfig().requires)
    return text + _TAIL.format(requires=f"[{requires}]")


def _problem(model: Path) -> str:
    """Say why a path is no model, or ``""``."""
    try:
        str(model).encode("utf-8")
    except UnicodeEncodeError:
        return f"{str(model)!r} has a name that is no UTF-8, which matrix.toml cannot hold: rename it."
    folder = model if model.is_dir() else model.parent
    there = sorted(path.name for path in folder.glob("*.onnx")) if folder.is_dir() else []
    if model.is_dir():
        inside = f" Perhaps you meant what is in it: {', '.join(there)}." if there else ""
        return f"{model} is a folder.{inside}"
    if not model.exists():
        close = nearest(model.name, there)
        return f"There is no {model}." + (f" Perhaps you meant {model.with_name(close)}." if close else "")
    if model.suffix.lower() != ".onnx":
        close = model.with_suffix(".onnx").name
        meant = f" Perhaps you meant {model.with_name(close)}." if close in there else ""
        return f"{model} is no .onnx file.{meant}"
    return f"{model} is empty." if model.stat().st_size == 0 else ""


def _names(models: Iterable[Path]) -> list[str]:
    """Name each model after its file, or after its folder where the file is just "model"."""
    names: list[str] = []
    for model in models:
        stem = model.parent.name if model.stem.lower() == "model" else model.stem
        base = re.sub(r"[^A-Za-z0-9._+-]+", "-", stem).strip("-+.")[:90]
        base = base if base and not name_problem(base) else "model"
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _quote(text: str) -> str:
    """Write a string as TOML does: as JSON, and DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
