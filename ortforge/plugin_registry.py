"""What plugins may give: the kinds of things, what is checked of each, and the mapping that holds them by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Generic, TypeVar

from ortforge import api
from ortforge.errors import PluginError, nearest

__all__ = ["KINDS", "LIST", "Kind", "Registry", "describe", "guarded", "item_problem", "items"]

T = TypeVar("T")
LIST: Final = "`ortforge plugins list` shows every plugin and what is wrong with it."


def _is_executor(item: object) -> bool:
    return isinstance(getattr(item, "name", None), str) and callable(getattr(item, "submit", None))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that plugins register: what it is and which attribute names it."""

    type: type
    named_by: str = "name"

    def accepts(self, item: object) -> bool:
        """Return whether an item is of this kind."""
        return _is_executor(item) if self.type is api.Executor else isinstance(item, self.type)


KINDS: Final[Mapping[str, Kind]] = {
    "backends": Kind(api.Backend),
    "allocators": Kind(api.Allocator),
    "passes": Kind(api.Pass),
    "sources": Kind(api.SourceResolver, "scheme"),
    "models": Kind(api.Resolver, "scheme"),
    "datasets": Kind(api.DatasetSource, "scheme"),
    "executors": Kind(api.Executor),
    "metrics": Kind(api.Metric),
    "reports": Kind(api.Report),
    "checks": Kind(api.Check),
    "commands": Kind(api.Command),
}
"""Registration hooks, less the prefix: ``ortforge_backends`` gives ``backends``."""


class Registry(Mapping[str, T], Generic[T]):
    """What plugins gave of one kind, by name. An unknown name is a :class:`PluginError` that helps."""

    def __init__(self, kind: str, entries: Mapping[str, T], owners: Mapping[str, tuple[str, str, str]]) -> None:
        self.kind = kind
        self._entries = entries
        self.owners = owners

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise self.unknown(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the entry, or ``default``."""
        return self._entries.get(name, default)

    def unknown(self, name: str) -> PluginError:
        """Return the error for a name that no plugin gave."""
        singular = {"passes": "pass"}.get(self.kind, self.kind.removesuffix("s"))
        if self.kind in KINDS and KINDS[self.kind].named_by == "scheme":
            singular = f"scheme for {self.kind}"
        close = nearest(name, self._entries)
        known = ", ".join(sorted(self._entries)) or "none at all"
        return PluginError(
            f"There is no {singular} called {name!r}.",
            meant=f"Perhaps {close!r} was meant." if close else f"There are: {known}.",
            todo=LIST,
        )


def items(given: Any) -> list[Any]:
    """Return what a registration hook gave, as a list.

    :raises TypeError: it gave something that cannot hold items.
    """
    if given is None:
        return []
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"it returned {describe(given)}, not an iterable of what it registers")
    return list(given)


def item_problem(kind: str, item: Any, third_party: bool) -> str:
    """Return why an item cannot be used, or ``""``.

    Version specifiers are read for third parties' items alone: reading them costs an import, and ours are tested.
    """
    known = KINDS[kind]
    if not known.accepts(item):
        return f"it gave {describe(item)} where {describe(known.type)} belongs"
    name = getattr(item, known.named_by)
    if not isinstance(name, str) or not name or any(character.isspace() or character in ":/@,*" for character in name):
        return f"{name!r} is no {known.named_by}: it must not be empty or hold spaces or any of :/@,*"
    versions = getattr(item, "versions", "")
    if versions and third_party:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            SpecifierSet(versions)
        except (InvalidSpecifier, TypeError):
            return f"{name}: versions = {versions!r} is no version specifier; write it like '>=1.24,<2'"
    return ""


def guarded(item: Any, plugin: str) -> Any:
    """Return a third party's item so that what planning asks of it cannot end the program."""
    if isinstance(item, api.Backend):
        return replace(item, availability=partial(_ask, item, plugin))
    return item


def _ask(backend: api.Backend, plugin: str, device: api.Device) -> api.Availability:
    try:
        answer = backend.availability(device)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        if isinstance(answer, api.Availability):
            return answer
        problem = f"it answered with {describe(answer)}"
    return api.unavailable(f"the plugin {plugin} could not say whether {backend.name} runs here: {problem}")


def describe(value: Any) -> str:
    """Return what a value is, with its article: ``a list``, ``an int``."""
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
