"""What the relay is told about the container that a worker runs in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

__all__ = ["VARIABLE", "Setting"]

VARIABLE: Final = "ORTFORGE_RELAY"
"""Environment variable that holds a :class:`Setting` as JSON: other users of the machine can read arguments."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a worker runs.

    :param image: the image's id. :param python: the interpreter inside; :param folders: what it reads besides its job:
        environment and worker, at the same paths inside and outside.
    :param environment: the worker's variables. :param cpus: processors' worth of time, 0 for no limit;
    :param processors: those that it may run on, empty for all.
    """

    image: str
    python: str
    folders: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    processors: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Return it as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Setting:
        """Make a setting of what :meth:`to_json` gave."""
        given = json.loads(text)
        return cls(**{**given, "folders": tuple(given["folders"]), "processors": tuple(given["processors"])})
