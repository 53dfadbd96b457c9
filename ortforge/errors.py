"""Every error that ortforge raises on purpose, with its exit code.

A message has up to three parts: what happened, what was probably meant, and what to do. The CLI prints
them; a traceback appears only with ``--debug``. :class:`ExitCode` states what each exit code means.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum
from typing import ClassVar

__all__ = [
    "BuildError",
    "ConfigurationError",
    "EnvironmentLacksError",
    "ExitCode",
    "FetchError",
    "OrtforgeError",
    "PluginError",
    "ProvisionError",
    "StoreError",
    "UnfitError",
    "UsageError",
    "nearest",
]


class ExitCode(IntEnum):
    """What the process returns to the shell.

    ``PASS``
        as expected. For ``run``: every verdict is as expected or better; of cells without an expectation, every
        (model, runtime, EP, device) has something correct to ship, and no cell crashed, hung, ran out of memory or
        failed.
    ``VERDICT``
        not as expected.
    ``USAGE``
        the command line, the matrix file or the file of accepted verdicts cannot be used.
    ``BUILD``
        a build of ONNX Runtime from source failed.
    ``ENVIRONMENT``
        the environment lacks something: disk space, the network, a tool, a device.
    ``DEFECT``
        ortforge or a plugin has a defect (``EX_SOFTWARE`` of sysexits.h).
    ``INTERRUPTED``
        Ctrl-C: 128 and the number of SIGINT, as shells have it.
    """

    PASS = 0
    VERDICT = 1
    USAGE = 2
    BUILD = 3
    ENVIRONMENT = 4
    DEFECT = 70
    INTERRUPTED = 130


class OrtforgeError(Exception):
    """Base of every deliberate error.

    :param what: what happened, as one sentence.
    :param meant: what was probably meant, or ``""`` when there is no good guess.
    :param todo: what to do next, or ``""``.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.ENVIRONMENT

    def __init__(self, what: str, *, meant: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.meant = meant
        self.todo = todo

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.meant, self.todo) if part)


class UsageError(OrtforgeError):
    """The command line asks for something that does not exist or cannot be combined."""

    exit_code = ExitCode.USAGE


class ConfigurationError(OrtforgeError):
    """``matrix.toml`` cannot be used; carries all of its problems at once."""

    exit_code = ExitCode.USAGE


class PluginError(OrtforgeError):
    """A plugin is needed and is missing, blocked or broken."""

    exit_code = ExitCode.USAGE


class BuildError(OrtforgeError):
    """Building ONNX Runtime from source failed."""

    exit_code = ExitCode.BUILD


class EnvironmentLacksError(OrtforgeError):
    """The machine lacks something ortforge needs (a tool, a device, disk space, the network)."""

    exit_code = ExitCode.ENVIRONMENT


class ProvisionError(EnvironmentLacksError):
    """A runtime's environment could not be made."""


class UnfitError(ProvisionError):
    """The wheels fit no interpreter, or not the C library, of the place where the environment was to be made.

    :param pythons: the versions that there are wheels for (``3.13``), oldest first; empty when that is not known.
    """

    def __init__(self, what: str, *, meant: str = "", todo: str = "", pythons: tuple[str, ...] = ()) -> None:
        super().__init__(what, meant=meant, todo=todo)
        self.pythons = pythons


class FetchError(EnvironmentLacksError):
    """A model or dataset could not be brought here, or is not what its digest says."""


class DamagedModelError(FetchError):
    """What was brought is not a whole model: empty, a pointer, a web page, or without all of its external data."""


class StoreError(EnvironmentLacksError):
    """The store cannot be read or written."""


def nearest(value: str, known: Iterable[str]) -> str:
    """Return the known name closest to ``value``, or ``""`` when none is close.

    >>> nearest("modles", ["models", "targets"])
    'models'
    """
    candidates = {name.lower(): name for name in known}
    found = get_close_matches(value.lower(), candidates, n=1, cutoff=0.6)
    return candidates[found[0]] if found else ""
