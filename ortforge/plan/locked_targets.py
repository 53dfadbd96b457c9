"""Which targets of a matrix can be locked, and which wheels their environments must have."""

from __future__ import annotations

from collections.abc import Sequence

from ortforge.api import Device
from ortforge.matrix import Matrix
from ortforge.runtime.resolution import LockedPin
from ortforge.runtime.wheel_lock import environment_key, lock_path, read_wheel_lock

__all__ = ["REFERENCE_NAME", "LockedTargets", "lockable_targets"]

REFERENCE_NAME = "@reference"
"""Name of the runtime that gives the reference outputs; no target can be called so."""


def lockable_targets(matrix: Matrix) -> dict[str, tuple[Sequence[str], str]]:
    """Return requirements and Python of each target that comes from a package index, and of the reference."""
    targets: dict[str, tuple[Sequence[str], str]] = {
        name: (config.requires, config.python or "")
        for name, config in matrix.targets.items()
        if config.from_ == "package"
    }
    if matrix.models:
        targets[REFERENCE_NAME] = (matrix.reference.requires, matrix.reference.python or "")
    return targets


class LockedTargets:
    """The lock file of a matrix, for one device.

    :raises ConfigurationError: the file cannot be used.
    """

    def __init__(self, matrix: Matrix, device: Device) -> None:
        self._lock = read_wheel_lock(lock_path(matrix.path))
        self._targets = lockable_targets(matrix)
        self._device = device
        self.unlocked: dict[str, str] = {}

    def pins(self, target: str) -> tuple[LockedPin, ...]:
        """Return the wheels that a target's environment must have; empty without a lock.

        :raises ConfigurationError: the lock was written for other requirements.
        """
        if not self._lock.requires or target not in self._targets:
            return ()
        requires, python = self._targets[target]
        key = environment_key(self._device.system, self._device.machine, python)
        pins = self._lock.of(target, requires, key)
        if not pins:
            name = "the reference runtime" if target == REFERENCE_NAME else f"the target {target}"
            self.unlocked[target] = (
                f"{self._lock.path.name} does not lock {name} for {key}; run 'ortforge lock' here to add it"
            )
        return pins
