"""Says what is wrong with a wheel before anybody installs it: reads it, starts nothing, needs no container."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from ortforge.build.package import linkage
from ortforge.build.package.archive import open_wheel
from ortforge.build.package.findings import CODES, Expectation, Finding, WheelFacts, gather, matches
from ortforge.errors import BuildError, ConfigurationError

__all__ = ["CODES", "Expectation", "Finding", "audit", "judge", "refuse_errors"]

_EXTENSION: Final = re.compile(r"\.cpython-(\d)(\d+)(t?)-(\w+?)-linux-\w+\.so$")
_SHARED: Final = "libonnxruntime_providers_shared.so"
_ORDER: Final = {"error": 0, "warning": 1, "note": 2}
_INDEX_LIMIT: Final = 100 << 20
"""Bytes that the Python Package Index accepts for one file, unless more is asked for (ORT 26002)."""


def audit(wheel: Path, expectation: Expectation) -> list[Finding]:
    """Return everything there is to say about a wheel, errors first; empty for a faultless one.

    A file that is no wheel is a finding like any other (``unreadable-wheel``).

    :raises EnvironmentLacksError: what reads libraries is not installed.
    :raises ConfigurationError: the expectation itself makes no sense.
    """
    _python_tag(expectation.python)
    try:
        with open_wheel(wheel) as opened:
            facts = gather(opened, expectation)
    except BuildError as error:
        return [Finding("error", "unreadable-wheel", error.what, error.meant, error.todo)]
    return judge(facts, expectation)


def judge(facts: WheelFacts, expectation: Expectation) -> list[Finding]:
    """Apply every rule to what was read of a wheel. Pure.

    :returns: the findings: errors first, then by code and text, whatever the order of the rules.
    """
    rules = (
        _record(facts),
        _names(facts),
        _tags(facts, expectation),
        _held(facts, expectation),
        _eps(facts, expectation),
        _duplicates(facts),
        _telemetry(facts, expectation),
        _sizes(facts),
        linkage.findings(facts, expectation),
    )
    found = {finding for rule in rules for finding in rule}
    return sorted(found, key=lambda one: (_ORDER[one.severity], one.code, one.path, one.what))


def refuse_errors(wheel: str, findings: Sequence[Finding]) -> None:
    """Raise when there is an error among the findings.

    :raises BuildError: it lists them all.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        lines = [f"- {one.code}: {one.what} {one.why}".rstrip() for one in errors]
        todo = dict.fromkeys(one.todo for one in errors if one.todo)
        raise BuildError("\n".join([f"{wheel} did not pass its audit:", *lines]), todo="\n".join(todo))


def _python_tag(python: str) -> str:
    """Return ``cp313`` for ``cp313``, ``3.13`` and ``3.13.5``."""
    found = re.fullmatch(r"(?:cp(\d)|(\d)\.)(\d+)(?:\.\d+)?(t?)", python)
    if python and found is None:
        raise ConfigurationError(f"{python!r} is no Python version.", meant="Something like 3.13 or cp313.")
    return f"cp{found[1] or found[2]}{found[3]}" if found else ""


def _record(facts: WheelFacts) -> Iterator[Finding]:
    why = "Installers check it, and refuse the wheel or leave files behind when it is removed."
    todo = "Build or download it again; who changes a wheel has to write RECORD anew."
    own = f"{facts.dist_info}/RECORD"
    exempt = {own, f"{own}.jws", f"{own}.p7s"}
    for name in sorted({*facts.digests, *facts.record} - exempt):
        if name not in facts.record:
            yield Finding("error", "record-mismatch", f"{name} is not in RECORD.", why, todo, name)
        elif name not in facts.digests:
            yield Finding("error", "record-mismatch", f"RECORD lists {name}, which is not there.", why, todo, name)
        else:
            stated, stated_size = facts.record[name]
            digest, size = facts.digests[name]
            ours = "sha256=" + base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()
            other_size = stated_size not in ("", str(size))
            if other_size or (stated.startswith("sha256=") and stated.rstrip("=") != ours):
                yield Finding("error", "record-mismatch", f"{name} is not as RECORD states it.", why, todo, name)
            elif not stated.startswith(("sha256=", "sha384=", "sha512=")):
                what = f"RECORD states no digest for {name} that can be relied on."
                yield Finding("error", "record-mismatch", what, why, todo, name)


def _names(facts: WheelFacts) -> Iterator[Finding]:
    why, todo = "Installers refuse it.", "Rewrite it: 'ortforge build' names wheels in one go."
    folder = facts.dist_info.removesuffix(".dist-info").rpartition("-")
    places = (
        ("its folder", folder[0], folder[2]),
        ("its METADATA", facts.distribution, facts.version),
    )
    for where, distribution, version in places:
        if canonicalize_name(distribution) != canonicalize_name(facts.name.distribution):
            what = f"The file is named {facts.name.distribution}, {where} says {distribution}."
            yield Finding("error", "wrong-name", what, why, todo)
        if version.replace("-", "_") != facts.name.version:
            what = f"The file is of version {facts.name.version}, {where} says {version}."
            yield Finding("error", "wrong-name", what, why, todo)


def _tags(facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    for what, why in _tag_problems(facts, expectation):
        todo = "Build it with the interpreter and on the machine that it is for, and leave its file name as it is."
        yield Finding("error", "wrong-tag", what, why, todo)


def _tag_problems(facts: WheelFacts, expectation: Expectation) -> Iterator[tuple[str, str]]:
    name, machine = facts.name, facts.platform.machine if facts.platform else ""
    if facts.wheel_tags != name.tags:
        listed = " ".join(facts.wheel_tags) or "nothing"
        yield f"The file name says {' '.join(name.tags)}, WHEEL says {listed}.", "Installers go by either."
    wanted = _python_tag(expectation.python)
    if wanted and wanted not in name.python.split("."):
        yield f"It is for {name.python}, and {wanted} was asked for.", "It cannot be installed there."
    if expectation.machine and machine != expectation.machine:
        yield f"It is for {machine or name.platform}, and {expectation.machine} was asked for.", "It cannot run there."
    for path in facts.digests:
        found = _EXTENSION.search(path)
        if found is None:
            continue
        python, abi = f"cp{found[1]}{found[2]}", f"cp{found[1]}{found[2]}{found[3]}"
        if python not in name.python.split("."):
            yield f"{path} is for {python}, the tag says {name.python}.", "Python would not find it."
        elif abi not in name.abi.split("."):
            yield f"{path} has the ABI {abi}, the tag says {name.abi}.", "Python would not find it."
    if facts.libraries and facts.platform is None:
        yield f"It holds compiled libraries, and its platform is {name.platform}.", "It would be installed anywhere."
    elif facts.libraries and facts.purelib:
        yield "It holds compiled libraries, and WHEEL says Root-Is-Purelib: true.", "It lands in the wrong folder."
    versions = {f"{one[2]}.{one[3:].rstrip('t')}" for one in name.python.split(".") if one.startswith("cp")}
    for library in facts.libraries:
        if library.pythons and versions and not library.pythons & versions:
            what = f"{library.path} was compiled for Python {_listed(library.pythons)}, the tag says {name.python}."
            yield what, 'Its import ends with "Python version mismatch".'
        if machine and library.machine != machine:
            yield (
                f"{library.path} is machine code for {library.machine}, the tag says {machine}.",
                "It cannot be loaded.",
            )


def _held(facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    for pattern in expectation.must_hold:
        if not any(matches(pattern, path) for path in facts.digests):
            yield Finding(
                "error",
                "missing-library",
                f"There is no {pattern} in the wheel.",
                "ORT's packaging leaves libraries out without a word (ORT 10275); the EP will not be available.",
                "Was it compiled? If so, let the backend name it in `bundle`.",
            )
    for pattern in expectation.must_not_hold:
        for path in sorted(path for path in facts.digests if matches(pattern, path)):
            todo = "Exclude it from the repair, or remove it from the wheel."
            yield Finding("error", "unexpected-library", f"{path} must not be there.", f"({pattern})", todo, path)
    files = {library.file for library in facts.libraries}
    bridged = sorted(name for name in files if re.fullmatch(r"libonnxruntime_providers_\w+\.so", name))
    if bridged and _SHARED not in files:
        yield Finding(
            "error",
            "missing-library",
            f"There is {bridged[0]} and no {_SHARED}.",
            "EPs in libraries of their own reach ORT's core through it.",
            f"Put {_SHARED} of the same build beside it.",
        )


def _eps(facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    for ep in expectation.eps:
        if not facts.holds_ep(ep):
            yield Finding(
                "error",
                "missing-ep",
                f"No library of the wheel holds {ep}.",
                "It would be absent from get_available_providers(), and sessions would fall back to the CPU.",
                "The build log says whether it was compiled; the EP's flag may have had no effect.",
            )


def _duplicates(facts: WheelFacts) -> Iterator[Finding]:
    by_content: dict[tuple[str, int], list[str]] = defaultdict(list)
    by_soname: dict[str, list[str]] = defaultdict(list)
    for library in facts.libraries:
        by_content[facts.digests[library.path]].append(library.path)
        if library.soname:
            by_soname[library.soname].append(library.path)
    for (_, size), paths in by_content.items():
        if len(paths) > 1:
            spared = _megabytes(size * (len(paths) - 1))
            yield Finding(
                "warning",
                "duplicate-library",
                f"{_listed(paths)} are one file.",
                f"Wheels have no links, so each name takes its full size: {spared} too much. Loaded by two names, "
                "it is in memory twice, with two sets of global state.",
                "Keep the one that is named like its soname, and remove the others.",
                paths[0],
            )
    for soname, paths in by_soname.items():
        if len({facts.digests[path] for path in paths}) > 1:
            yield Finding(
                "error",
                "duplicate-library",
                f"{_listed(paths)} differ, and all say that they are {soname}.",
                "Whichever is loaded first serves everyone who needs the other.",
                "Keep the one that was built against.",
                paths[0],
            )


def _telemetry(facts: WheelFacts, expectation: Expectation) -> Iterator[Finding]:
    if facts.telemetry:
        allowed = expectation.telemetry_allowed
        yield Finding(
            "note" if allowed else "error",
            "telemetry",
            f"{_listed(facts.telemetry)} can send telemetry.",
            "Since ORT 1.29 it is compiled in on Linux unless the build says no.",
            "Set ORT_DISABLE_TELEMETRY=1 where it runs." if allowed else "Build with the flag no_telemetry.",
            facts.telemetry[0],
        )


def _sizes(facts: WheelFacts) -> Iterator[Finding]:
    if len(facts.cores) > 1:
        spare = _megabytes(min(facts.digests[path][1] for path in facts.cores))
        yield Finding(
            "note",
            "several-cores",
            f"ONNX Runtime's core is in {_listed(facts.cores)}.",
            "Every wheel of ORT has it twice: Python uses the extension module, and custom code may link the other.",
            f"{spare} can be spared by removing libonnxruntime.so.*, where nothing links it.",
        )
    if facts.size > _INDEX_LIMIT:
        yield Finding(
            "note",
            "large-wheel",
            f"The wheel has {_megabytes(facts.size)}.",
            "The Python Package Index accepts 100 MB unless more was asked for.",
            "Use the simple/ folder, or another index.",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _listed(paths: Iterable[str]) -> str:
    *first, last = sorted(paths)
    return f"{', '.join(first)} and {last}" if first else last
