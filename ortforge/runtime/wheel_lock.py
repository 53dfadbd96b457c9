"""The lock file beside a matrix: the sha256 of every wheel of every package target.

``ortforge lock`` writes ``matrix.lock``; ``ortforge run`` then makes environments from exactly these wheels. An entry
holds for one platform and Python; entries of other machines are kept when the file is written again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ortforge.errors import ConfigurationError
from ortforge.runtime.distributions import read_lock
from ortforge.runtime.resolution import LOCK, EnvironmentRequest, LockedPin, resolve

__all__ = ["WheelLock", "environment_key", "lock_path", "read_wheel_lock", "resolve_pins"]

SCHEMA: Final = 1

Pins = tuple[LockedPin, ...]


def lock_path(matrix_file: Path) -> Path:
    """Return where the lock of a matrix file lies: ``matrix.lock`` beside ``matrix.toml``."""
    return matrix_file.with_suffix(".lock")


def environment_key(system: str, machine: str, python: str) -> str:
    """Return the name of the entries for a platform and Python: ``linux-x86_64-python3.13``.

    :param python: the version or path that the target asks for; ``""`` for the Python that ortforge runs on.
    """
    version = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f"{system}-{machine}-python{version}"


@dataclass(slots=True)
class WheelLock:
    """Locked wheels.

    :param requires: by target, the requirements that were resolved.
    :param pins: by target and environment key, the packages with their wheels.
    """

    path: Path
    requires: dict[str, list[str]] = field(default_factory=dict)
    pins: dict[str, dict[str, Pins]] = field(default_factory=dict)

    def of(self, target: str, requires: Sequence[str], key: str) -> Pins:
        """Return the wheels that a target's environment must have; empty when the lock does not have them.

        :raises ConfigurationError: the lock was written for other requirements.
        """
        if target not in self.requires:
            return ()
        if self.requires[target] != sorted(requires):
            raise ConfigurationError(
                f"{self.path.name} was written for other requirements of the target {target}: "
                f"{', '.join(self.requires[target])} are locked, {', '.join(sorted(requires))} are required now.",
                todo="Run 'ortforge lock' to write it again.",
            )
        return self.pins[target].get(key, ())

    def put(self, target: str, requires: Sequence[str], key: str, pins: Pins) -> None:
        """Lock a target for one environment; entries for other environments stay while the requirements are equal."""
        if self.requires.get(target) != sorted(requires):
            self.pins[target] = {}
        self.requires[target] = sorted(requires)
        self.pins[target][key] = pins

    def to_text(self) -> str:
        """Return the file's content: JSON, sorted, so that equal locks are equal files."""
        targets = {
            target: {
                "requires": requires,
                "environments": {
                    key: [{"name": pin.name, "version": pin.version, "wheels": dict(pin.wheels)} for pin in pins]
                    for key, pins in self.pins[target].items()
                },
            }
            for target, requires in self.requires.items()
        }
        return json.dumps({"schema": SCHEMA, "targets": targets}, indent=2, sort_keys=True) + "\n"


def read_wheel_lock(path: Path) -> WheelLock:
    """Read a lock file; one that does not exist is empty.

    :raises ConfigurationError: it cannot be read, or is not a lock file of this version.
    """
    lock = WheelLock(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
        for target, entry in content["targets"].items():
            lock.requires[target] = list(entry["requires"])
            lock.pins[target] = {key: tuple(map(_pin, pins)) for key, pins in entry["environments"].items()}
    except FileNotFoundError:
        return lock
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"The lock file {path} cannot be used: {error}.",
            todo="Run 'ortforge lock' to write it again, or remove it to resolve without a lock.",
        ) from error
    return lock


def _pin(entry: Mapping[str, Any]) -> LockedPin:
    return LockedPin(str(entry["name"]), str(entry["version"]), tuple(sorted(entry["wheels"].items())))


def resolve_pins(request: EnvironmentRequest, folder: Path, say: Callable[[str], None]) -> Pins:
    """Resolve a request for this machine and return every package with the wheels that fit.

    :param folder: an empty folder to work in.
    :raises ProvisionError: the requirements cannot be satisfied.
    """
    resolve(request, folder, say)
    packages = sorted(read_lock(folder / LOCK), key=lambda package: package.name)
    return tuple(
        LockedPin(
            package.name, package.version, tuple(sorted((wheel.filename, wheel.sha256) for wheel in package.wheels))
        )
        for package in packages
    )
