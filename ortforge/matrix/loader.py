"""Reads matrix.toml: all of its problems at once, or a Matrix in which every name leads somewhere."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from ortforge.errors import ConfigurationError
from ortforge.matrix.config import (
    NAMED_SECTIONS,
    BaselineConfig,
    DatasetConfig,
    DeviceConfig,
    EntryConfig,
    ExpectConfig,
    LimitsConfig,
    MatrixFile,
    ModelConfig,
    ProjectConfig,
    RecipeConfig,
    ReferenceConfig,
    ToleranceConfig,
)
from ortforge.matrix.expansion import cells, ep_names, idle_selections
from ortforge.matrix.expectations import idle_expectations
from ortforge.matrix.fields import Context, Table, name_problem
from ortforge.matrix.known import Known
from ortforge.matrix.matrix import Baseline, Matrix
from ortforge.matrix.positions import Path as Place
from ortforge.matrix.problems import Problem, perhaps, problems_of, report, sentence
from ortforge.matrix.targets import PackageTarget, SourceTarget, TargetConfig, WheelTarget

__all__ = ["NO_RECIPE", "load"]

NO_RECIPE: Final = "none"
"""The recipe that is always there: no passes, the model as it is."""

_TARGETS: Final[Mapping[str, type[TargetConfig]]] = {
    "package": PackageTarget,
    "wheel": WheelTarget,
    "source": SourceTarget,
}

T = TypeVar("T", bound=Table)


def load(path: Path | str, known: Known) -> Matrix:
    """Read and validate a matrix file.

    :param known: what plugins offer.
    :raises ConfigurationError: there is no such file, it is no TOML, or it has problems: all of them are in the one
        message, each with its line, in the order of the file.
    """
    path = Path(path)
    text = _read(path)
    raw = _parse(path, text)
    if unsayable := list(_unsayable(raw, ())):
        raise report(str(path), unsayable, text)
    reader = _Reader(path, raw, known)
    matrix = reader.matrix()
    if matrix is None:
        raise report(str(path), reader.problems, text)
    warnings = [sentence(str(path), problem, text) for problem in _doubts(matrix, reader.raw)]
    return replace(matrix, warnings=tuple(warnings))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(
            f"There is no {path}.",
            todo="Write a first one with 'ortforge init MODEL.onnx …', or name yours with --matrix FILE.",
        ) from None
    except IsADirectoryError:
        inside = path / "matrix.toml"
        meant = f"Perhaps you meant {inside}." if inside.exists() else ""
        raise ConfigurationError(
            f"{path} is a folder.", meant=meant, todo="Name the file with --matrix FILE."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}:{line}: this is no UTF-8 text ({error.reason}).", todo="Save the file as UTF-8."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigurationError(f"{path} has values nested too deeply.", todo="Write them flatter.") from None
    except ValueError as error:
        raise _syntax_error(path, text, str(error)) from None


def _unsayable(value: Any, at: Place) -> Iterator[Problem]:
    """Yield what TOML can say and JSON cannot, since all values travel as JSON and no key of the file takes it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unsayable(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _unsayable(inner, (*at, number))
    elif isinstance(value, int) and value.bit_length() > 63:
        yield Problem(at, "must be a number that fits into 64 bits")
    elif isinstance(value, float) and not isfinite(value):
        yield Problem(at, "must be a finite number", value)
    elif not isinstance(value, str | int | float):
        yield Problem(at, "is a date or time, which nothing here takes: write it as a string")


def _syntax_error(path: Path, text: str, message: str) -> ConfigurationError:
    lines = text.replace("\r\n", "\n").split("\n")
    if found := re.search(r" \(at line (\d+), column (\d+)\)$", message):
        line, column = int(found[1]), int(found[2])
        message = message[: found.start()]
    else:
        line = max((number for number, content in enumerate(lines, 1) if content.strip()), default=1)
        column = len(lines[line - 1]) + 1
        message = message.removesuffix(" (at end of document)")
    shown = lines[line - 1].replace("\t", " ")
    return ConfigurationError(
        f"{path}:{line}:{column}: no valid TOML: {message}.\n    {shown}\n    {' ' * (column - 1)}^",
        meant='Perhaps a quote, a bracket or "=" is missing there.' if "duplicate" not in message.lower() else "",
        todo="Correct the line; https://toml.io describes the format.",
    )


@dataclass(slots=True)
class _Reader:
    """Validates section by section and collects problems on the way."""

    path: Path
    raw: dict[str, Any]
    known: Known
    problems: list[Problem] = field(default_factory=list)
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        names = {section.removesuffix("s"): self.names(section) for section in NAMED_SECTIONS}
        self.context = Context(self.known, self.path.resolve().parent, names)

    def matrix(self) -> Matrix | None:
        """Return the matrix, or ``None`` when there are problems."""
        self.keys()
        datasets = self.named("datasets", DatasetConfig)
        self.context = replace(self.context, datasets=datasets)
        models, recipes = self.named("models", ModelConfig), self.named("recipes", RecipeConfig)
        targets, devices = self.targets(), self.named("devices", DeviceConfig)
        if len(targets) == len(self.names("targets")):
            eps = dict.fromkeys(name for target in targets.values() for ep in target.ep_uses for name in ep_names(ep))
            self.context = replace(self.context, names={**self.context.names, "EP": eps})
        entries = self.tables("matrix", EntryConfig, [{}])
        expect = self.tables("expect", ExpectConfig, [])
        project, reference = self.single("project", ProjectConfig), self.single("reference", ReferenceConfig)
        tolerance, limits = self.single("tolerance", ToleranceConfig), self.single("limits", LimitsConfig)
        baseline = self.baseline(self.single("baseline", BaselineConfig), targets)
        if self.problems:
            return None
        none = RecipeConfig.model_construct(passes=(), goal="any", summary="the model as it is")
        matrix = Matrix(
            path=self.path,
            base=self.context.base,
            digest="",
            project=project,
            datasets=datasets,
            models=models,
            targets=targets,
            recipes={NO_RECIPE: none, **recipes},
            devices=devices or {"here": DeviceConfig()},
            entries=tuple(entry for entry in entries if entry is not None),
            reference=reference,
            baseline=baseline,
            tolerance=tolerance,
            limits=limits,
            expect=tuple(entry for entry in expect if entry is not None),
        )
        if models and next(cells(matrix), None) is None:
            self.problems.append(
                Problem(("matrix",), "no cell is left to run: exclusions and lists leave nothing over")
            )
            return None
        self.problems += idle_expectations(matrix)
        return None if self.problems else replace(matrix, digest=_digest(matrix))

    def keys(self) -> None:
        """Refuse keys that are no section, and files without targets, or without models that they are for.

        A file of source targets alone is one for building wheels.
        """
        sections = list(MatrixFile.model_fields)
        for key in self.raw:
            if key not in sections:
                self.problems.append(Problem((key,), "no such section." + perhaps(key, sections, what="Sections")))
        for section, what in (("models", 'path = "path:…"'), ("targets", 'from = "package", requires = ["…"]')):
            if section == "models" and section not in self.raw and self.is_for_building():
                continue
            if not self.raw.get(section) and isinstance(self.raw.get(section, {}), dict):
                reason = f"there are no {section}: add [{section}.NAME] with {what}"
                self.problems.append(Problem((section,) if section in self.raw else (), reason))

    def is_for_building(self) -> bool:
        """Say whether all targets are built from source."""
        targets = self.raw.get("targets")
        tables = list(targets.values()) if isinstance(targets, dict) else []
        return bool(tables) and all(isinstance(table, dict) and table.get("from") == "source" for table in tables)

    def table(self, section: str) -> dict[str, Any]:
        """Return a section's named tables, refusing what is none and names that cannot be."""
        value = self.raw.get(section, {})
        if not isinstance(value, dict):
            reason = f"must be tables with names: [{section}.NAME]"
            self.problems.append(Problem((section,), reason, value))
            return {}
        for name in value:
            if inner := _split_name(value[name]):
                reason = f'is no table of {section}. Perhaps you meant [{section}."{name}.{inner}"]: a dot needs quotes'
                self.problems.append(Problem((section, name), reason))
            elif reason := name_problem(name):
                self.problems.append(Problem((section, name), reason))
            elif section == "recipes" and name == NO_RECIPE:
                reason = (
                    '"none" is built in (no passes at all) and cannot be given another meaning: choose another name'
                )
                self.problems.append(Problem((section, name), reason))
        reserved = NO_RECIPE if section == "recipes" else ""
        return {name: table for name, table in value.items() if not _split_name(table) and name != reserved}

    def names(self, section: str) -> list[str]:
        """Return the names in a section, whether or not they are valid: one mistake gives one message."""
        value = self.raw.get(section, {})
        names = list(value) if isinstance(value, dict) else []
        if section == "recipes":
            return [NO_RECIPE, *names]
        return names or ["here"] if section == "devices" else names

    def validate(self, model: type[T], value: Any, at: Place) -> T | None:
        try:
            return model.model_validate(value, context=self.context)
        except ValidationError as error:
            self.problems += problems_of(error, at, model)
            return None

    def named(self, section: str, model: type[T]) -> dict[str, T]:
        found = {name: self.validate(model, value, (section, name)) for name, value in self.table(section).items()}
        return {name: value for name, value in found.items() if value is not None}

    def single(self, section: str, model: type[T]) -> T:
        return self.validate(model, self.raw.get(section, {}), (section,)) or model()

    def targets(self) -> dict[str, TargetConfig]:
        """Validate each target as the kind that it says it is."""
        targets: dict[str, TargetConfig] = {}
        for name, value in self.table("targets").items():
            at: Place = ("targets", name)
            if not isinstance(value, dict):
                self.problems.append(Problem(at, "must be a table", value))
                continue
            kind = value.get("from")
            if kind is None:
                self.problems.append(Problem(at, 'from is missing: "package", "wheel" or "source"'))
            elif not isinstance(kind, str) or kind not in _TARGETS:
                reason = "no such kind of target." + perhaps(str(kind), list(_TARGETS), what="Kinds")
                self.problems.append(Problem((*at, "from"), reason, kind))
            elif (target := self.validate(_TARGETS[kind], value, at)) is not None:
                targets[name] = target
        return targets

    def tables(self, section: str, model: type[T], default: list[Any]) -> list[T | None]:
        """Validate an array of tables; an invalid one leaves its place empty, so that numbers stay right."""
        value = self.raw.get(section, default)
        if not isinstance(value, list):
            self.problems.append(Problem((section,), f"must be written with two brackets: [[{section}]]"))
            return []
        return [self.validate(model, entry, (section, number)) for number, entry in enumerate(value)]

    def baseline(self, config: BaselineConfig, targets: Mapping[str, TargetConfig]) -> Baseline:
        """Find the baseline's target and EP; what is returned beside a problem is never used."""
        declared = self.names("targets")
        name = config.target or next(iter(declared), "")
        if config.target is not None and config.target not in declared:
            reason = "no such target." + perhaps(config.target, declared, what="Targets")
            self.problems.append(Problem(("baseline", "target"), reason, config.target))
        if name not in targets:
            return Baseline(name, "")
        uses = targets[name].ep_uses
        if config.ep is None:
            return Baseline(name, uses[0].label)
        for use in chain(
            (use for use in uses if use.label == config.ep), (use for use in uses if use.name == config.ep)
        ):
            return Baseline(name, use.label)
        reason = f'target "{name}" has no such EP.' + perhaps(config.ep, [use.label for use in uses], what="Its EPs")
        self.problems.append(Problem(("baseline", "ep"), reason, config.ep))
        return Baseline(name, "")


def _split_name(value: Any) -> str:
    """Return what follows the dot of a name that was meant as one: ``[targets.ort-1.21]`` is ``21`` in ``ort-1``."""
    if not isinstance(value, dict) or len(value) != 1:
        return ""
    [(inner, table)] = value.items()
    return inner if isinstance(table, dict) and not re.fullmatch(r"[a-z_]+", inner) else ""


def _digest(matrix: Matrix) -> str:
    """Hash what the file means; names of files that it points to are in it, their content is not."""
    sections = {
        name: {key: value.model_dump(mode="json", by_alias=True) for key, value in getattr(matrix, name).items()}
        for name in NAMED_SECTIONS
    }
    singles = {
        name: getattr(matrix, name).model_dump(mode="json") for name in ("project", "reference", "tolerance", "limits")
    }
    entries = [entry.model_dump(mode="json") for entry in matrix.entries]
    baseline = [matrix.baseline.target, matrix.baseline.ep]
    content = {**sections, **singles, "matrix": entries, "baseline": baseline}
    if matrix.expect:
        content["expect"] = [entry.model_dump(mode="json") for entry in matrix.expect]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _doubts(matrix: Matrix, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is allowed and probably not meant."""
    for number, key, position in idle_selections(matrix):
        reason = "matches no cell of this entry" if key == "exclude" else "adds no cell: no such target has such an EP"
        yield Problem(("matrix", number, key, position), reason)
    used = {
        config[split]
        for config in raw.get("models", {}).values()
        for split in ("validation", "calibration")
        if isinstance(config.get(split), str)
    }
    for name in matrix.datasets:
        if name not in used:
            yield Problem(("datasets", name), "no model uses this dataset")
    for name, model in matrix.models.items():
        data = model.calibration
        if data is not None and data == model.validation and data.source.partition(":")[0] == "path":
            reason = "calibrated on the data that it is judged by, which flatters it: keep them apart"
            yield Problem(("models", name, "calibration"), reason)
