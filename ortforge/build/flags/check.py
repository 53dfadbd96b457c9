"""Holds a target's flags against its version: a sentence for each that does not exist, does not fit or is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ortforge.build.flags.conflicts import conflicts
from ortforge.build.flags.explanation import SYSTEM_NAMES, explain, span_text
from ortforge.build.flags.flag import Flag, canonical, value_problem
from ortforge.build.flags.knowledge import effect_of, parser_has_it_on, platforms_of
from ortforge.build.flags.versions import Moment, flags_of, moment, table
from ortforge.errors import UsageError, nearest

__all__ = ["problems_of"]

_OURS: Final[Mapping[str, str]] = {
    "build_dir": "ortforge chooses the build folder",
    "clean": "'ortforge cache clean' removes what was built",
    "cmake_extra_defines": "CMake definitions belong into the target's defines = { NAME = value }",
    "gen_doc": "it writes documentation, and no wheel",
    "target": "ortforge builds everything that the wheel or the library needs",
    "targets": "ortforge builds everything that the wheel or the library needs",
    "test": "ortforge runs models on what it built instead of ORT's own tests",
}
"""Flags that a target cannot set, and what to do instead."""


def problems_of(
    flags: Mapping[str, Any],
    version: str,
    *,
    system: str = "linux",
    artifact: str = "wheel",
    parser: Mapping[str, Flag] | None = None,
) -> list[str]:
    """Return a sentence for each problem, in the order of the flags' names; none when all is well.

    :param flags: name without dashes to value; ``True`` for a switch, ``False`` for a flag that is not given.
    :param version: of ONNX Runtime. :param artifact: ``wheel`` or ``cxx``.
    :param parser: what the tree's own parser has, by :func:`read_parser`: it decides what exists and what it takes, the
        version table only explains.
    """
    try:
        when = moment(version)
    except UsageError as error:
        return [" ".join(str(error).split("\n"))]
    have = flags_of(version) if parser is None else parser
    found = []
    for name in sorted(flags):
        problem = _one(name, flags[name], when, system, have, parser is not None)
        if problem:
            found.append(f"--{name} {problem}")
    return found + conflicts(flags, when.version, artifact=artifact)


def _one(name: str, value: object, when: Moment, system: str, have: Mapping[str, Flag], from_tree: bool) -> str:
    if canonical(name) != name:
        return f"is not how matrix.toml names a flag, which is without dashes: {canonical(name)}"
    flag = have.get(name)
    if flag is None:
        return _missing(name, value, when, have, from_tree)
    if name in _OURS and value is not False:
        return f"is not for a target to set: {_OURS[name]}"
    if value is False:
        return ""
    if problem := _elsewhere(flag, when, system, from_tree):
        return problem
    if problem := _special(name, value, flag) or value_problem(flag, value):
        return problem
    return effect_of(name, when.version, system)


def _missing(name: str, value: object, when: Moment, have: Mapping[str, Flag], from_tree: bool) -> str:
    where = f"this source's own parser (version {when.asked})" if from_tree else f"build.py of {when.asked}"
    if name not in table():
        # A newer version may have flags that the table cannot know; its own parser is asked once the source is there.
        if when.beyond and not from_tree:
            return ""
        return f"is not in {where}, and never was in any version.{_meant(name, have)}"
    if value is False:
        return ""
    told = explain(name, when.asked)
    sentence = f"is not in {where}: it {span_text(told.spans)}."
    by = f" Use {told.replaced_by}." if told.replaced_by else ""
    return f"{sentence}{by} {told.instead}".rstrip()


def _meant(name: str, have: Mapping[str, Flag]) -> str:
    """Return the flag that may have been meant, as a sentence with a blank in front."""
    longer = [known for known in have if known.startswith(name)]
    if len(longer) == 1:
        return f" Flags are written in full: perhaps you meant {longer[0]}."
    close = nearest(name, {**table(), **have})
    if not close:
        return " 'ortforge flags list' shows what there is."
    gone = "" if close in have else f", which is not in this version either; see 'ortforge flags explain {close}'"
    return f" Perhaps you meant {close}{gone}."


def _elsewhere(flag: Flag, when: Moment, system: str, from_tree: bool) -> str:
    """Return why a flag is for another system than the build, or ``""``."""
    meant = platforms_of(flag.name, when.version) | (flag.platforms if from_tree else frozenset())
    if not meant or system in meant:
        return ""
    there = " or ".join(SYSTEM_NAMES[one] for one in sorted(meant))
    refused = flag.platforms if from_tree else parser_has_it_on(flag.name, when.version)
    here = SYSTEM_NAMES.get(system, system)
    if refused and system not in refused:
        return f"is for {there}: build.py of {when.asked} refuses it on {here}"
    return f"is for {there}, and this build is for {here}"


def _special(name: str, value: object, flag: Flag) -> str:
    """Return what is wrong with values that the parser takes, and the build then suffers from."""
    if name == "parallel" and not flag.is_switch and (value is True or str(value) in ("0", "-0", "+0")):
        return (
            "needs a number of at least 1, such as parallel = 4: bare or 0 it starts as many compilers as the machine "
            "has CPUs, whatever the container may use"
        )
    if name == "parallel" and flag.is_switch:
        return "has no number in this version, and starts as many compilers as the machine has CPUs; leave it out"
    if name == "parallel" and str(value).startswith("-"):
        return f"needs a number of at least 1, not {value}"
    if name == "nvcc_threads" and value is True:
        return "needs a number: build.py fails without one"
    if name == "config" and value not in ("Release", ("Release",), ["Release"]):
        return f"is always Release in ortforge, not {value!r}: only Release builds are packaged and measured"
    return ""
