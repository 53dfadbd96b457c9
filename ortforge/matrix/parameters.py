"""A pass's parameters: what the file says against the pass's own dataclass, made complete.

The complete values are what is hashed, so that a default written out gives the same artefact as one left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from ortforge.api import Pass
from ortforge.matrix.positions import Path
from ortforge.matrix.problems import perhaps, refusal

__all__ = ["parameters_of"]


def parameters_of(known: Pass, given: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return all parameters as JSON values, and as an instance of the pass's dataclass.

    :raises ValidationError: with the place of each wrong parameter inside ``given``.
    :raises PydanticCustomError: the pass itself cannot say what it takes.
    """
    adapter, names = _adapter(known)
    details = [_unknown((name,), name, names, value) for name, value in sorted(given.items()) if name not in names]
    wanted = {name: value for name, value in given.items() if name in names}
    complete: dict[str, Any] = {}
    typed = None
    try:
        # JSON mode is the strict one that takes lists for tuples and strings for enumerations.
        typed = adapter.validate_json(json.dumps(wanted), strict=True)
        complete = adapter.dump_python(typed, mode="json")
        details += [_unknown(*lost) for lost in _lost((), wanted, complete)]
    except ValidationError as error:
        details += [
            InitErrorDetails(type=_again(found), loc=tuple(found["loc"]), input=found["input"])
            for found in error.errors(include_url=False)
        ]
    except Exception as error:
        # What a plugin's class does when it is made is its own affair, and a problem of this recipe alone.
        details += [InitErrorDetails(type=refusal(f"{known.name} refuses its parameters: {error}"), loc=(), input=None)]
    if details:
        raise ValidationError.from_exception_data(known.name, details)
    return complete, typed


def _adapter(known: Pass) -> tuple[TypeAdapter[Any], list[str]]:
    if not (isinstance(known.parameters, type) and dataclasses.is_dataclass(known.parameters)):
        raise refusal(f'the pass "{known.name}" is broken: its parameters are no dataclass')
    names = [field.name for field in dataclasses.fields(known.parameters) if field.init]
    try:
        return _adapter_of(known.parameters), names
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise refusal(f'the pass "{known.name}" is broken: its parameters have no usable types ({reason})') from error


@cache
def _adapter_of(parameters: type) -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(parameters)
    adapter.rebuild(raise_errors=True)
    return adapter


def _unknown(path: Path, name: str, names: Collection[str], value: Any) -> InitErrorDetails:
    return InitErrorDetails(type=refusal("no such parameter." + perhaps(name, names)), loc=path, input=value)


def _again(found: ErrorDetails) -> PydanticCustomError:
    """Return an error of the same kind and words, to be raised once more from inside the recipe."""
    context = {**found.get("ctx", {}), "words": found["msg"]}
    return PydanticCustomError(found["type"], "{words}", context)


def _lost(path: Path, given: Any, kept: Any) -> Iterator[tuple[Path, str, list[str], Any]]:
    """Yield keys of nested tables that a dataclass dropped because it has no such field."""
    if isinstance(given, Mapping) and isinstance(kept, Mapping):
        for name, value in given.items():
            if name not in kept:
                yield (*path, name), name, sorted(kept), value
            else:
                yield from _lost((*path, name), value, kept[name])
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost((*path, number), one, other)
