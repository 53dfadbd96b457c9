"""What goes into a session from a samples folder, and what of its outputs is kept in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .samples import Samples
from .structure import is_plain, type_name
from .tensors import cast_feeds, check_feeds

__all__ = ["Exchange"]


class Exchange:
    """What a session is fed, and in which types its outputs are kept."""

    def __init__(self, samples: Samples, session: Any, settings: Mapping[str, Any]) -> None:
        self._samples, self._session = samples, session
        self._cast_to, self._kept_as = settings.get("inputs") or {}, settings.get("outputs") or {}
        self._names = [entry.name for entry in session.get_outputs()]
        types = {entry.name: type_name(entry.type) for entry in session.get_outputs()}
        self.output_types = {name: self._kept_as.get(name, kind) for name, kind in types.items()}
        self.plain_outputs = [name for name, kind in types.items() if is_plain(kind)]

    def feeds(self, number: int) -> dict[str, Any]:
        """Return a sample as the session takes it, checked.

        :raises JobError: kind ``input``, when it does not fit the model.
        """
        feeds = cast_feeds(self._samples.feeds(number), self._cast_to, number)
        check_feeds(self._session.get_inputs(), self._session.get_overridable_initializers(), feeds, number)
        return feeds

    def kept(self, answered: list[Any]) -> dict[str, Any]:
        """Return the outputs by name, in the types that they had before a recipe changed them."""
        values = dict(zip(self._names, answered, strict=True))
        return {
            name: value.astype(self._kept_as[name]) if name in self._kept_as else value
            for name, value in values.items()
        }
