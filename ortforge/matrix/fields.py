"""The kinds of value that matrix.toml has: what each accepts, and why it refuses the rest.

Checks that need to know the plugins or the rest of the file read them from the validation context; without
one (a section made in code) they are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from ortforge.matrix.known import Known
from ortforge.matrix.problems import perhaps, refusal, refuse_all
from ortforge.portable.cpu_tiers import GROUPS, TIERS
from ortforge.portable.statuses import STATUSES

__all__ = [
    "NAME_PATTERN",
    "AllocatorName",
    "BackendName",
    "Bytes",
    "CellGlobs",
    "ContainerUse",
    "Context",
    "CosineLimit",
    "Count",
    "DatasetReference",
    "Defines",
    "DeviceGlobs",
    "DistributionName",
    "Environment",
    "EpGlobs",
    "Flags",
    "ImageName",
    "LibraryReference",
    "Limit",
    "LocalVersion",
    "MetricName",
    "ModelGlobs",
    "ModelReference",
    "Options",
    "OrtVersion",
    "PythonVersion",
    "RecipeGlobs",
    "Requirements",
    "Seconds",
    "SessionEntries",
    "Sha256",
    "ShareLimit",
    "SourceReference",
    "Statuses",
    "Table",
    "TargetGlobs",
    "TierNames",
    "WheelFile",
    "context_of",
    "name_problem",
]

NAME_PATTERN: Final = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}"
"""What a model, target, recipe, dataset or device may be called."""

_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}{tail}": 1000**power for power, letter in enumerate("kmgt", 1) for tail in ("", "b")},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}


@dataclass(frozen=True, slots=True)
class Context:
    """What validators know beyond the value: plugins' names, and the rest of the file.

    :param base: the folder of the file.
    :param names: what ``model``, ``target``, ``dataset`` … can be called, valid or not, so that a mistake is reported
        once; without an entry for what is not known.
    :param datasets: the valid datasets.
    """

    known: Known
    base: Path
    names: Mapping[str, Collection[str]]
    datasets: Mapping[str, Any] = field(default_factory=dict)


class Table(BaseModel):
    """A table of the file: frozen, and closed to keys that it does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def context_of(info: ValidationInfo) -> Context | None:
    """Return the validation context, or ``None`` outside of loading a file."""
    return info.context if isinstance(info.context, Context) else None


def name_problem(name: str) -> str:
    """Say why a name cannot be given to a model, target, recipe, dataset or device, or ``""``.

    Names become parts of file names, of cell ids and of command lines.
    """
    if re.fullmatch(NAME_PATTERN, name):
        return ""
    if not name:
        return "a name must not be empty"
    if len(name) > 100:
        return "a name has at most 100 characters: it becomes part of file names"
    better = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip(".+-").rstrip("-")
    meant = f' Perhaps you meant "{better}".' if better else ""
    rule = 'a name has letters, digits, ".", "_", "+" and "-" only, and begins with a letter, a digit or "_"'
    return f"{rule}: it becomes part of file names, cell ids and command lines.{meant}"


def _one_of(attribute: str, what: str) -> Callable[[str, ValidationInfo], str]:
    """Return a validator for a name that a plugin must offer."""

    def check(value: str, info: ValidationInfo) -> str:
        if (context := context_of(info)) is not None and value not in (known := getattr(context.known, attribute)):
            guess = value.removesuffix("ExecutionProvider") if attribute == "backends" else value
            raise refusal(f"no such {what}." + perhaps(guess, sorted(known)))
        return value

    return check


def _reference(attribute: str, what: str) -> Callable[[str, ValidationInfo], str]:
    """Return a validator for ``scheme:…`` whose scheme a plugin must offer."""

    def check(value: str, info: ValidationInfo) -> str:
        if (context := context_of(info)) is None:
            return value
        known = sorted(getattr(context.known, attribute))
        scheme, colon, _ = value.partition(":")
        if not colon:
            meant = f' Perhaps you meant "path:{value}".' if "path" in known else ""
            raise refusal(f"a {what} begins with its kind and a colon.{meant} Kinds: {', '.join(known)}")
        if scheme not in known:
            raise refusal(f'no such kind of {what}: "{scheme}:".' + perhaps(scheme, known, what="Kinds"))
        return value

    return check


def _library(value: str) -> str:
    scheme, colon, path = value.partition(":")
    if colon and scheme == "path" and path:
        return value
    meant = f' Did you mean "path:{value}"?' if not colon else ""
    raise refusal(f'a custom-operator library is a file: "path:LIB.so".{meant}')


def _requirement(value: str) -> str:
    try:
        Requirement(value)
    except InvalidRequirement:
        pinned = re.sub(r"(?<![=<>!~])=(?!=)", "==", value)
        meant = f' Perhaps you meant "{pinned}".' if pinned != value else ""
        raise refusal(f'no requirement as pip takes it ("NAME==VERSION").{meant}') from None
    return value


def _python(value: Any) -> Any:
    if isinstance(value, float):
        raise refusal("must be a string, because as a number 3.10 is 3.1")
    if isinstance(value, str) and not re.fullmatch(r"3\.\d{1,2}(\.\d{1,2})?", value):
        raise refusal('must be a Python version such as "3.12"')
    return value


def _version(value: str) -> str:
    try:
        Version(value)
    except InvalidVersion:
        raise refusal('must be a version such as "1.21.0"') from None
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise refusal("must be 64 hexadecimal digits, as sha256sum prints them")
    return value.lower()


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _UNITS:
        raise refusal('must be a number of bytes, or a string such as "4GB", "512 MiB"')
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _limit(low: float, high: float) -> Callable[[Any], Any]:
    """Return a validator for a tolerance: a number, or false for a limit that is turned off."""

    def check(value: Any) -> Any:
        if value is None or value is False:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise refusal("must be a number, or false to turn the limit off")
        if not low <= value <= high:
            raise refusal(f"must be at least {low:g}" + (f" and at most {high:g}" if isfinite(high) else ""))
        return float(value)

    return check


def _globs(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _matches(dimension: str) -> Callable[[tuple[str, ...], ValidationInfo], tuple[str, ...]]:
    """Return a validator for names and globs, each of which must match something in the file."""

    def check(value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        context = context_of(info)
        if context is None or (names := context.names.get(dimension)) is None:
            return value
        reason = f"matches no {dimension}."
        idle = [
            ((number,), reason + perhaps(glob, names), glob)
            for number, glob in enumerate(value)
            if glob != "*" and not any(fnmatchcase(name, glob) for name in names)
        ]
        refuse_all("globs", idle)
        return value

    return check


def _status(value: str) -> str:
    if value not in STATUSES:
        raise refusal("no such status." + perhaps(value, STATUSES, what="Statuses"))
    return value


def _tiers(value: tuple[str, ...]) -> tuple[str, ...]:
    known = (*TIERS, *GROUPS)
    bad = [
        ((number,), "no such CPU tier." + perhaps(name, known, what="Tiers"), name)
        for number, name in enumerate(value)
        if name not in known
    ]
    refuse_all("tiers", bad)
    return value


def _wheel(value: str, info: ValidationInfo) -> str:
    if not value.endswith(".whl"):
        raise refusal('must be a wheel: a file whose name ends in ".whl"')
    if (context := context_of(info)) is not None and not (wheel := context.base / value).is_file():
        there = [str(Path(value).parent / other.name) for other in sorted(wheel.parent.glob("*.whl"))]
        help_ = perhaps(value, there, what="Wheels there") if there else " There are no wheels in its folder"
        raise refusal("no such file." + help_)
    return value


def _texts(value: Any, truth: tuple[str, str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    bad = [
        ((str(key),), "must be a string, a number, true or false", entry)
        for key, entry in value.items()
        if not isinstance(entry, str | int | float)
    ]
    refuse_all("options", bad)
    return {key: truth[entry] if isinstance(entry, bool) else str(entry) for key, entry in value.items()}


def _options(value: Any) -> Any:
    # As onnxruntime's own Python does with provider options: str(value), so true is "True".
    return _texts(value, ("False", "True"))


def _session_entries(value: Any) -> Any:
    # ORT's session configuration knows "0" and "1".
    return _texts(value, ("0", "1"))


def _environment(value: dict[str, str]) -> dict[str, str]:
    bad = [
        ((key,), "no name for an environment variable", entry)
        for key, entry in value.items()
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) or "\0" in entry
    ]
    refuse_all("environment", bad)
    return value


def _flags(value: dict[str, Any]) -> dict[str, Any]:
    bad = []
    for key, entry in value.items():
        plain = key.lstrip("-").replace("-", "_")
        parts = entry if isinstance(entry, list) else [entry]
        if not re.fullmatch(r"[a-z0-9_]+", key):
            meant = f' Perhaps you meant "{plain}".' if re.fullmatch(r"[a-z0-9_]+", plain) else ""
            bad.append(((key,), f"flags are named as build.py has them, without the dashes in front.{meant}", entry))
        elif not all(isinstance(part, str | int | float) for part in parts):
            bad.append(((key,), "must be true or false, a number, a string or a list of strings", entry))
    refuse_all("flags", bad)
    return value


def _named(pattern: str, rule: str) -> Callable[[str], str]:
    """Return a validator for a name that has a form of its own."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise refusal(rule)
        return value

    return check


def _defines(value: Any) -> Any:
    value = _texts(value, ("OFF", "ON"))
    if isinstance(value, Mapping):
        bad = [
            ((str(key),), "no name for a CMake variable", entry)
            for key, entry in value.items()
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.+-]*", str(key)) or any(mark in entry for mark in "\0\n")
        ]
        refuse_all("defines", bad)
    return value


_LimitInput = float | Literal[False]
_Scalar = str | int | float | bool
Count = Annotated[int, Field(strict=True, ge=1)]
Limit = Annotated[float | bool | None, BeforeValidator(_limit(0, inf), json_schema_input_type=_LimitInput)]
ShareLimit = Annotated[float | bool | None, BeforeValidator(_limit(0, 1), json_schema_input_type=_LimitInput)]
CosineLimit = Annotated[float | bool | None, BeforeValidator(_limit(-1, 1), json_schema_input_type=_LimitInput)]
Seconds = Annotated[float, Field(strict=True, gt=0)]
Bytes = Annotated[Count, BeforeValidator(_bytes, json_schema_input_type=str | Count)]
_Strings = Annotated[tuple[str, ...], Field(min_length=1)]
_Globs = Annotated[_Strings, BeforeValidator(_globs, json_schema_input_type=str | _Strings)]
TargetGlobs = Annotated[_Globs, AfterValidator(_matches("target"))]
ModelGlobs = Annotated[_Globs, AfterValidator(_matches("model"))]
RecipeGlobs = Annotated[_Globs, AfterValidator(_matches("recipe"))]
EpGlobs = Annotated[_Globs, AfterValidator(_matches("EP"))]
DeviceGlobs = Annotated[_Globs, AfterValidator(_matches("device"))]
CellGlobs = _Globs
_Status = Annotated[str, AfterValidator(_status), Field(json_schema_extra={"enum": list(STATUSES)})]
Statuses = Annotated[
    tuple[_Status, ...],
    Field(min_length=1),
    BeforeValidator(_globs, json_schema_input_type=_Status | tuple[_Status, ...]),
]
TierNames = Annotated[_Strings, AfterValidator(_tiers)]
WheelFile = Annotated[str, AfterValidator(_wheel)]
Options = Annotated[dict[str, str], BeforeValidator(_options, json_schema_input_type=dict[str, _Scalar])]
SessionEntries = Annotated[dict[str, str], BeforeValidator(_session_entries, json_schema_input_type=dict[str, _Scalar])]
Environment = Annotated[
    dict[str, str], BeforeValidator(_options, json_schema_input_type=dict[str, _Scalar]), AfterValidator(_environment)
]
Flags = Annotated[dict[str, Any], AfterValidator(_flags)]
Defines = Annotated[dict[str, str], BeforeValidator(_defines, json_schema_input_type=dict[str, _Scalar])]
ImageName = Annotated[
    str,
    AfterValidator(
        _named(
            r"[a-z][a-z0-9-]*|([\w.-]+/)*([\w-]+\.)*Dockerfile",
            'must be the name of a toolchain, such as "debian", or the path of a Dockerfile of your own, such as '
            '"docker/my.Dockerfile", relative to this file',
        )
    ),
]
ContainerUse = Annotated[
    str,
    AfterValidator(
        _named(r"[a-z0-9][A-Za-z0-9._/:@-]*", 'must be "auto", "never" or an image such as "debian:trixie-slim"')
    ),
]
DistributionName = Annotated[
    str,
    AfterValidator(
        _named(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", 'must be a distribution name, such as "onnxruntime-dnnl"')
    ),
]
LocalVersion = Annotated[
    str,
    AfterValidator(
        _named(
            r"[a-z0-9]+(\.[a-z0-9]+)*", 'must be a local version as PEP 440 has it, such as "dnnl.1", without the "+"'
        )
    ),
]
Requirements = tuple[Annotated[str, AfterValidator(_requirement)], ...]
PythonVersion = Annotated[str, BeforeValidator(_python, json_schema_input_type=str)]
OrtVersion = Annotated[str, AfterValidator(_version)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
BackendName = Annotated[str, AfterValidator(_one_of("backends", "execution provider"))]
AllocatorName = Annotated[str, AfterValidator(_one_of("allocators", "allocator"))]
MetricName = Annotated[str, AfterValidator(_one_of("metrics", "metric"))]
LibraryReference = Annotated[str, AfterValidator(_library)]
ModelReference = Annotated[str, AfterValidator(_reference("model_schemes", "model reference"))]
DatasetReference = Annotated[str, AfterValidator(_reference("dataset_schemes", "dataset reference"))]
SourceReference = Annotated[str, AfterValidator(_reference("source_schemes", "source reference"))]
