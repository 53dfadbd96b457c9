"""What is wrong with a matrix file, in words: every problem with its line, its value and the nearest good one."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from ortforge.errors import ConfigurationError, nearest
from ortforge.matrix.positions import Path, locate, show

__all__ = ["Problem", "perhaps", "problems_of", "refusal", "refuse_all", "report", "sentence"]

ABSENT: Final = object()
"""Stands for "there is no value to show"."""

_TYPES: Final = {
    "string": "a string",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a table",
    "mapping": "a table",
    "model": "a table",
    "model_attributes": "a table",
    "dataclass": "a table",
}
_MUST: Final = "must be "
_BOUNDS: Final = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``path`` may go deeper than the file does; ``value`` is shown when it is a scalar."""

    path: Path
    message: str
    value: Any = ABSENT


def perhaps(value: str, known: Collection[str], *, what: str = "Known") -> str:
    """Return the help for a name that does not exist: the nearest one, and all of them.

    >>> perhaps("modles", ["models", "targets"])
    ' Perhaps you meant "models". Known: models, targets.'
    """
    close = nearest(value, known)
    meant = f' Perhaps you meant "{close}".' if close else ""
    return f"{meant} {what}: {', '.join(known)}." if known else f"{meant} There are none."


def refusal(reason: str) -> PydanticCustomError:
    """Return the error with which a validator refuses a value, in our own words."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


def refuse_all(title: str, reasons: Iterable[tuple[Path, str, Any]]) -> None:
    """Refuse several places inside a value at once: each a path, a reason and the refused value.

    :raises ValidationError: there is at least one.
    """
    details = [InitErrorDetails(type=refusal(reason), loc=path, input=value) for path, reason, value in reasons]
    if details:
        raise ValidationError.from_exception_data(title, details)


def problems_of(error: ValidationError, at: Path, model: type[BaseModel]) -> list[Problem]:
    """Translate what pydantic found in the table at ``at``."""
    found = error.errors(include_url=False)
    # A list whose elements are all refused is "too short" as well: that would be one message too many.
    return [_problem(details, at, model) for details in found if details["type"] != "too_short" or not details["input"]]


def _problem(details: ErrorDetails, at: Path, model: type[BaseModel]) -> Problem:
    loc, kind, value = details["loc"], details["type"], details["input"]
    path, context = (*at, *loc), details.get("ctx", {})
    if kind == "missing":
        return Problem(path[:-1], f"{path[-1]} is missing{_description(model, loc)}")
    if kind == "extra_forbidden":
        known = sorted(_keys(model, loc[:-1]))
        return Problem(path, "no such key." + perhaps(str(path[-1]), known))
    if kind in {"literal_error", "enum"}:
        expected = str(context.get("expected", ""))
        choices = re.findall(r"'([^']*)'", expected) or expected.replace(" or ", ", ").split(", ")
        return Problem(path, "is not among the choices." + perhaps(str(value), choices), value)
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return Problem(path, f"must be {words} {context[bound]:g}", value)
    if kind == "too_short":
        return Problem(path, "must not be empty")
    stem = re.sub(r"_(type|parsing|from_float|parsing_size)$", "", kind)
    if stem in _TYPES:
        return Problem(path, f"must be {_TYPES[stem]}", value)
    words = re.sub(r"^(Value error|Assertion failed), ", "", details["msg"])
    return Problem(path, words, value)


def _description(model: type[BaseModel], loc: Sequence[str | int]) -> str:
    inner = _inner(model, loc[:-1])
    for name, info in inner.model_fields.items() if inner else ():
        if (info.alias or name) == loc[-1] and info.description:
            return f": {info.description[0].lower()}{info.description[1:]}"
    return ""


def _keys(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    inner = _inner(model, loc)
    return [info.alias or name for name, info in inner.model_fields.items()] if inner else []


def _inner(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """Follow a path through nested models to the one that it ends in."""
    found: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, str) and found is not None:
            fields = {info.alias or name: info.annotation for name, info in found.model_fields.items()}
            found = _model_in(fields.get(part))
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 80 else value[:77] + "…", ensure_ascii=False)
    return repr(value) if isinstance(value, int | float) else ""


def _lines(text: str) -> Mapping[Path, int]:
    try:
        return locate(text)
    except (ValueError, IndexError, RecursionError):
        # Lines are a help: a text that the locator cannot follow still gets its errors, all at line 1.
        return {}


def _placed(problems: Iterable[Problem], text: str) -> list[tuple[int, Path, Problem]]:
    """Give each problem the line and path of the deepest key that the file has of it."""
    lines = _lines(text)
    placed = []
    for problem in problems:
        path = problem.path
        while path and lines and path not in lines:
            path = path[:-1]
        placed.append((lines.get(path, 1), path, problem))
    placed.sort(key=lambda item: item[0])
    return placed


def sentence(file: str, problem: Problem, text: str) -> str:
    """Return one problem with its place, for warnings."""
    [(line, path, _)] = _placed([problem], text)
    return f"{file}:{line}: {show(path)}: {problem.message}" if path else f"{file}:{line}: {problem.message}"


def report(file: str, problems: Sequence[Problem], text: str) -> ConfigurationError:
    """Return the one error that shows all problems of a file, in the order of its lines."""
    rows: list[tuple[str, str]] = []
    for line, path, problem in _placed(problems, text):
        shown = _scalar(problem.value)
        place = f"{file}:{line}: " + (f"{show(path)}{f' = {shown}' if shown else ''}: " if path else "")
        message = problem.message.rstrip(".")
        if (place, message) in rows:
            continue
        if rows and rows[-1][0] == place and all(m.startswith(_MUST) for m in (message, rows[-1][1])):
            # A value that may be one of several types is refused once for each of them.
            message = f"{rows.pop()[1]} or {message.removeprefix(_MUST)}"
        rows.append((place, message))
    count = "one problem" if len(rows) == 1 else f"{len(rows)} problems"
    return ConfigurationError(
        "\n".join([f"{file} cannot be used, {count}:", *(f"{place}{message}." for place, message in rows)]),
        todo="Correct the file; 'ortforge schema' describes every key.",
    )
