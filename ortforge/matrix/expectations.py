"""Expectations: the statuses that a matrix file, or the file of accepted verdicts next to it, allows for its cells.

``[[expect]]`` in the matrix file states statuses with a reason; the last entry that matches a cell counts.
``ortforge run --accept`` writes the verdicts of a run to ``NAME.expect.toml`` next to ``NAME.toml``; they count for
the cells that no ``[[expect]]`` matches.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ortforge.errors import ConfigurationError
from ortforge.matrix.expansion import cells
from ortforge.matrix.matrix import Matrix
from ortforge.matrix.problems import Problem, perhaps, report
from ortforge.portable.statuses import STATUSES
from ortforge.store.atomic import write_bytes

__all__ = [
    "Expectation",
    "accepted_file",
    "accepted_text",
    "idle_expectations",
    "load_expectations",
    "matching_cells",
    "nearest_cell",
    "read_accepted",
    "write_accepted",
]

_HEAD: Final = """\
# Verdicts that were accepted with 'ortforge run --accept'. Commit this file next to the matrix file.
# 'ortforge run' exits with 0 when every verdict is as expected or better. An [[expect]] entry in the matrix file
# takes precedence over this file.

[cells]
"""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of one cell.

    :param status: allowed statuses; a better one is as expected, too.
    :param reason: why, as the matrix file states it; ``""`` for an accepted verdict.
    :param source: name of the file that states it.
    :param accepted: whether it comes from the file of accepted verdicts.
    """

    status: tuple[str, ...]
    reason: str
    source: str
    accepted: bool = False


def matching_cells(pattern: str, names: Collection[str]) -> list[str]:
    """Return the cells that a name or glob selects. A name that exists is never read as a glob."""
    return [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]


def nearest_cell(pattern: str, names: Iterable[str]) -> str:
    """Return the cell whose name is nearest to a name or glob that matches none; ``""`` when there are no cells.

    Names are compared part by part (model, recipe, target, EP, device), so a ``*`` costs nothing.

    >>> nearest_cell("vad/*@openvin:*/here", ["cls/none@stock:cpu/here", "vad/none@openvino:openvino/here"])
    'vad/none@openvino:openvino/here'
    """
    parts = re.split(r"[/@:]", pattern)

    def likeness(name: str) -> float:
        own = re.split(r"[/@:]", name)
        if len(own) != len(parts):
            return SequenceMatcher(None, pattern.replace("*", ""), name).ratio() * len(own)
        return sum(
            1.0 if fnmatchcase(mine, part) else SequenceMatcher(None, part.replace("*", ""), mine).ratio()
            for mine, part in zip(own, parts, strict=True)
        )

    return max(names, key=likeness, default="")


def no_such_cell(pattern: str, names: Collection[str]) -> str:
    """Return the message about a name or glob that matches no cell."""
    near = nearest_cell(pattern, names)
    meant = f' Did you mean "{near}"?' if near else " The matrix has no cells."
    return f"matches no cell.{meant}"


def idle_expectations(matrix: Matrix) -> Iterator[Problem]:
    """Yield a problem for each name or glob of ``[[expect]]`` that matches no cell of the matrix."""
    names = [spec.id for spec in cells(matrix)] if matrix.expect else []
    known = dict.fromkeys(names)
    for number, entry in enumerate(matrix.expect):
        for position, pattern in enumerate(entry.cells):
            if not matching_cells(pattern, known):
                yield Problem(("expect", number, "cells", position), no_such_cell(pattern, known), pattern)


def accepted_file(matrix_file: Path) -> Path:
    """Return where the accepted verdicts of a matrix file lie.

    >>> accepted_file(Path("project/matrix.toml")).as_posix()
    'project/matrix.expect.toml'
    """
    return matrix_file.with_name(f"{matrix_file.name.removesuffix('.toml')}.expect.toml")


def load_expectations(matrix: Matrix, *, rewriting: bool = False) -> dict[str, Expectation]:
    """Return the expectation of each cell that has one: from ``[[expect]]``, or else from the accepted verdicts.

    :param rewriting: the file of accepted verdicts is about to be written anew: what is wrong with it does not matter.
    :raises ConfigurationError: the file of accepted verdicts cannot be used, or names a cell that does not exist.
    """
    names = dict.fromkeys(spec.id for spec in cells(matrix))
    path = accepted_file(matrix.path)
    try:
        accepted = read_accepted(path, None if rewriting else names)
    except ConfigurationError:
        if not rewriting:
            raise
        accepted = {}
    found = {
        name: Expectation((status,), "", path.name, accepted=True) for name, status in accepted.items() if name in names
    }
    for entry in matrix.expect:
        expectation = Expectation(entry.status, entry.reason, matrix.path.name)
        found.update({name: expectation for pattern in entry.cells for name in matching_cells(pattern, names)})
    return found


def read_accepted(path: Path, names: Collection[str] | None) -> dict[str, str]:
    """Read accepted verdicts: the status of each cell; ``{}`` when there is no such file.

    :param names: all cells of the matrix; ``None`` accepts any name.
    :raises ConfigurationError: the file cannot be read, or names a cell or a status that does not exist.
    """
    todo = "Correct the file, or write it anew with 'ortforge run --accept'."
    try:
        text = path.read_bytes().decode("utf-8")
        raw = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        meant = "It may hold the marks of a merge conflict." if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise ConfigurationError(f"{path} is not valid TOML: {error}.", meant=meant, todo=todo) from None
    verdicts = raw.get("cells", {})
    problems = [Problem((key,), "no such key." + perhaps(key, ["cells"])) for key in raw if key != "cells"]
    if not isinstance(verdicts, dict):
        problems.append(Problem(("cells",), "must be a table: [cells]", verdicts))
        verdicts = {}
    problems += _verdict_problems(verdicts, names)
    if problems:
        refusal = report(str(path), problems, text)
        refusal.todo = todo
        raise refusal
    return dict(verdicts)


def _verdict_problems(verdicts: Mapping[str, Any], names: Collection[str] | None) -> Iterator[Problem]:
    for name, status in verdicts.items():
        if not isinstance(status, str) or status not in STATUSES:
            yield Problem(("cells", name), "no such status." + perhaps(str(status), STATUSES), status)
        elif names is not None and name not in names:
            yield Problem(("cells", name), no_such_cell(name, names))


def accepted_text(verdicts: Mapping[str, str]) -> str:
    """Return the file of accepted verdicts: one line for each cell, sorted, without dates or numbers."""
    lines = [f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(verdicts[name])}\n" for name in sorted(verdicts)]
    return _HEAD + "".join(lines)


def write_accepted(path: Path, names: Collection[str], cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Write the verdicts of a run, and keep those of cells that it did not run.

    :param names: all cells of the matrix. :param cells: cells of a report.
    :returns: ``{"added": [cell], "changed": [(cell, status before, status now)], "removed": [cell]}``.
    :raises ConfigurationError: the file is there and cannot be read. :raises StoreError: it cannot be written.
    """
    now = {str(cell["id"]): str(cell["status"]) for cell in cells}
    try:
        before = read_accepted(path, None)
    except ConfigurationError:
        if not now.keys() >= set(names):  # what was accepted of the other cells would be lost
            raise
        before = {}
    kept = {name: status for name, status in before.items() if name in names}
    write_bytes(path, accepted_text(kept | now).encode("utf-8"))
    return {
        "added": [name for name in now if name not in before],
        "changed": [(name, before[name], status) for name, status in now.items() if before.get(name, status) != status],
        "removed": [name for name in before if name not in names],
    }
