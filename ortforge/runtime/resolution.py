"""Chooses the interpreter and the wheels of an environment, and writes them into a lock."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from ortforge.errors import ProvisionError, UnfitError
from ortforge.runtime import uv, uv_errors
from ortforge.runtime.distributions import read_lock

__all__ = [
    "LOCK",
    "OLDEST_PYTHON",
    "EnvironmentRequest",
    "LockedPin",
    "overwriting",
    "refuse_variants",
    "resolve",
    "resolve_for",
]

LOCK: Final = "pylock.toml"

OLDEST_PYTHON: Final = (3, 10)
"""The worker's files are written for this Python and newer."""


@dataclass(frozen=True, slots=True)
class LockedPin:
    """A package of a lock file: its version, and file name and sha256 of each wheel that may be installed."""

    name: str
    version: str
    wheels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class EnvironmentRequest:
    """What an environment must hold.

    :param requires: requirements of the runtime, e.g. ``onnxruntime==1.32.0``.
    :param python: version (``3.13``) or path of an interpreter; ``""`` takes the one that ortforge runs on where the
        wheels allow it, else the newest that works.
    :param wheels: local wheel files of the runtime.
    :param extra: what passes and datasets need beside it (onnx …); empty for a bare environment.
    :param prefer: ``NAME==VERSION`` to take where the requirements leave a choice (see :func:`tools_request`).
    :param locked: all packages that the environment must have, with their wheels; empty without a lock file.
    """

    requires: tuple[str, ...]
    python: str = ""
    wheels: tuple[Path, ...] = ()
    extra: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()
    locked: tuple[LockedPin, ...] = ()

    @property
    def title(self) -> str:
        """What it is an environment of, in words."""
        runtime = ", ".join([*self.requires, *(path.name for path in self.wheels)])
        return " with ".join(part for part in (runtime, ", ".join(self.extra)) if part)

    @property
    def names(self) -> frozenset[str]:
        """Names of the runtime's own packages, as the index writes them."""
        required = {canonicalize_name(Requirement(text).name) for text in self.requires}
        return frozenset(required | {str(parse_wheel_filename(path.name)[0]) for path in self.wheels})

    @property
    def wanted(self) -> list[str]:
        """Everything that was asked for, as the user wrote it."""
        return [*self.requires, *self.extra, *(path.name for path in self.wheels)]

    @property
    def requirements(self) -> list[str]:
        """Everything that was asked for, as uv takes it."""
        local = [f"{parse_wheel_filename(path.name)[0]} @ {path.resolve().as_uri()}" for path in self.wheels]
        pinned = [f"{pin.name}=={pin.version}" for pin in self.locked]
        return [*self.requires, *self.extra, *local, *pinned]

    @property
    def version(self) -> str:
        """The Python asked for, or the one that is tried first."""
        return self.python or f"{sys.version_info[0]}.{sys.version_info[1]}"


def _lock(
    request: EnvironmentRequest,
    folder: Path,
    python: str,
    say: Callable[[str], None],
    only_version: bool = False,
    platform: str = "",
) -> None:
    """Write the lock of a request for one interpreter; without a network, out of uv's cache.

    :param platform: as uv names it, when it is not this machine's.
    :raises UvError: it cannot be satisfied.
    """
    lock = folder / LOCK
    preferred = [Requirement(text) for text in request.prefer]
    entries = [
        f'[[packages]]\nname = "{wish.name}"\nversion = "{next(iter(wish.specifier)).version}"\n' for wish in preferred
    ]
    lock.unlink(missing_ok=True)
    if entries:
        lock.write_text('lock-version = "1.0"\ncreated-by = "ortforge"\n' + "\n".join(entries), encoding="utf-8")
    elsewhere = ("--python-platform", platform) if platform else ()
    try:
        uv.compile_lock(request.requirements, lock, python=python, only_version=only_version, arguments=elsewhere)
    except uv.UvError as error:
        if not uv_errors.is_network_error(error.text):
            raise
        say("There is no network: trying with the package cache alone.")
        try:
            uv.compile_lock(
                request.requirements, lock, python=python, offline=True, only_version=only_version, arguments=elsewhere
            )
        except uv.UvError:
            raise error from None


def resolve(request: EnvironmentRequest, folder: Path, say: Callable[[str], None]) -> str:
    """Choose the interpreter, write the lock for it, and return its path."""
    try:
        if request.python:
            python = _find_python(request, folder, say)
            _lock(request, folder, python, say)
            return python
        try:
            _lock(request, folder, sys.executable, say)
            return sys.executable
        except uv.UvError as error:
            other = _other_python(request, folder, say, uv_errors.wheels_exist_for(error.text))
            if other:
                return other
            raise
    except uv.UvError as error:
        near = _near(request, folder, error.text)
        raise uv_errors.explain(error.text, wanted=request.wanted, python=request.version, near=near) from None


def resolve_for(
    request: EnvironmentRequest, folder: Path, version: str, platform: str, say: Callable[[str], None]
) -> None:
    """Write the lock for an interpreter that is not on this machine.

    :param version: its version. :param platform: where it is, as uv names it (``x86_64-manylinux_2_28``).
    :raises ProvisionError: the requirements cannot be satisfied there.
    """
    try:
        _lock(request, folder, version, say, only_version=True, platform=platform)
    except uv.UvError as error:
        near = _near(request, folder, error.text)
        raise uv_errors.explain(error.text, wanted=request.wanted, python=version, near=near) from None


def _find_python(request: EnvironmentRequest, folder: Path, say: Callable[[str], None]) -> str:
    """Return the path of the interpreter that was asked for by path or version.

    :raises ProvisionError: there is none, and uv cannot bring it.
    :raises UvError: the wheels do not allow that version.
    """
    asked = request.python
    if not re.fullmatch(r"3(\.\d+){1,2}", asked):
        if Path(asked).is_file():
            return asked
        raise ProvisionError(
            f"There is no Python {asked}.",
            todo='Give a version, such as python = "3.13", or the path of an interpreter.',
        )
    parts = tuple(int(part) for part in asked.split("."))
    if parts < OLDEST_PYTHON:
        raise ProvisionError(f"Python {asked} is too old.", todo="Workers need Python 3.10 or newer.")
    if tuple(sys.version_info[: len(parts)]) == parts:
        return sys.executable
    installed = uv.installed_pythons(folder)
    for candidate in installed:
        if candidate.version[: len(parts)] == parts:
            return str(candidate.path)
    _lock(request, folder, asked, say, only_version=True)
    say(f"Python {asked} is not on this machine: fetching it.")
    try:
        return str(uv.fetch_python(asked, folder))
    except uv.UvError:
        found = ", ".join(".".join(map(str, candidate.version)) for candidate in installed)
        raise UnfitError(
            f"Python {asked} is not on this machine, and could not be fetched.",
            meant=f"There is Python {found}." if found else "",
            todo=f"Install Python {asked}, or ask for one that is there.",
        ) from None


def _other_python(request: EnvironmentRequest, folder: Path, say: Callable[[str], None], fitting: Sequence[str]) -> str:
    """Find the newest other interpreter that the wheels allow, write its lock, and return its path or ``""``.

    :param fitting: versions that uv says there are wheels for; when it does not say, nothing else is tried.
    """
    wanted = [version for version in fitting if tuple(map(int, version.split("."))) >= OLDEST_PYTHON]
    candidates = [
        str(candidate.path)
        for candidate in (uv.installed_pythons(folder) if wanted else ())
        if f"{candidate.version[0]}.{candidate.version[1]}" in wanted
    ]
    for python in candidates:
        try:
            _lock(request, folder, python, say)
        except uv.UvError:
            continue
        return python
    for version in reversed([] if candidates else wanted):
        say(f"{request.title} needs another Python: fetching {version}.")
        try:
            python = str(uv.fetch_python(version, folder))
            _lock(request, folder, python, say)
        except uv.UvError:
            continue
        return python
    return ""


def _near(request: EnvironmentRequest, folder: Path, text: str) -> tuple[str, ...]:
    missing = re.search(r"there is no version of ([\w.-]+)", text)
    for wanted in (*request.requires, *request.extra) if missing else ():
        if missing and canonicalize_name(Requirement(wanted).name) == canonicalize_name(missing[1]):
            return uv.neighbours(wanted, folder, python=sys.executable)
    return ()


def refuse_variants(request: EnvironmentRequest, folder: Path, python: str) -> None:
    """Refuse two distributions that both install ``onnxruntime``: the later one overwrites the first.

    :raises ProvisionError: names both, and what brought them.
    """
    variants = [package.name for package in read_lock(folder / LOCK) if package.name in uv_errors.ORT_DISTRIBUTIONS]
    if len(variants) < 2:
        return
    parents = []
    for name in variants:
        try:
            parent = uv.required_by(request.requirements, name, folder, python=python)
        except uv.UvError:
            parent = ""
        parents += [f"{name} comes with {parent}."] if parent else []
    raise overwriting(variants[0], variants[1], " ".join(parents))


def overwriting(first: str, second: str, meant: str) -> ProvisionError:
    """Return the error for two distributions that bring the same files; ``meant`` says how they came together."""
    return ProvisionError(
        f"{first} and {second} cannot be in one environment: they install the same files over each other.",
        meant=meant,
        todo="Make a target of each; a target has an environment of its own.",
    )
