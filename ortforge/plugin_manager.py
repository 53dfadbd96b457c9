"""Loads, guards, blocks and lists plugins.

First-party plugins are the modules below ``ortforge.plugins``: adding one is adding a file. Others come through the
entry-point group ``ortforge``. Whatever a plugin does wrong (it cannot be imported, has a wrong signature,
returns something else, takes a name that is taken) becomes a row of ``ortforge plugins list``, and the rest works on.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pluggy

import ortforge
from ortforge import api
from ortforge.api import spec
from ortforge.errors import nearest
from ortforge.plugin_registry import KINDS, Registry, describe, guarded, item_problem, items

if TYPE_CHECKING:
    from pluggy._hooks import HookimplOpts

__all__ = ["PluginRow", "Plugins", "Registry", "third_party_commands"]

PACKAGE: Final = "ortforge.plugins"
DISABLE_VARIABLE: Final = "ORTFORGE_DISABLE_PLUGINS"

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One line of ``ortforge plugins list``.

    :param status: ``loaded``, ``partial`` (some of it is not used: see ``error``), ``failed`` (nothing of it is
        used), ``blocked``, or ``unknown`` (a name that was to be blocked and that no plugin has).
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    status: str = "loaded"
    error: str = ""


@dataclass(slots=True)
class _Plugin:
    """A plugin while it is loaded; becomes a row."""

    name: str
    distribution: str
    version: str
    third_party: bool
    hooks: tuple[str, ...] = ()
    status: str = "loaded"
    errors: list[str] = field(default_factory=list)

    @property
    def owner(self) -> tuple[str, str, str]:
        return self.name, self.distribution, self.version

    def fail(self, error: str) -> None:
        self.status = "failed"
        self.errors.append(error)

    def complain(self, error: str) -> None:
        """Record that a part of it is not used. Said once, however often it happens."""
        if self.status == "loaded":
            self.status = "partial"
        if error not in self.errors:
            self.errors.append(error)

    def row(self) -> PluginRow:
        return PluginRow(*self.owner, self.hooks, self.status, "; ".join(self.errors))


class _Manager(pluggy.PluginManager):
    """pluggy's manager, which takes every function named ``ortforge_*`` for a hook, marked or not."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> HookimplOpts | None:
        """Return a hook's options: those of its marker, else the defaults."""
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and _is_hook(plugin, name):
            return {
                "wrapper": False,
                "hookwrapper": False,
                "optionalhook": False,
                "tryfirst": False,
                "trylast": False,
                "specname": None,
            }
        return options


def _is_hook(plugin: object, name: str) -> bool:
    found = inspect.getattr_static(plugin, name, None)
    routine = inspect.isroutine(found) or isinstance(found, (staticmethod, classmethod))
    return name.startswith("ortforge_") and routine and not hasattr(found, "ortforge_spec")


class Plugins:
    """All plugins. Modules are imported when it is made; each registration hook is called once, when first needed.

    :param blocked: names or globs (``backends.*``) not to be loaded; ``ORTFORGE_DISABLE_PLUGINS`` adds to them.
    :param first_party: whether to load the modules below ``package``.
    :param third_party: whether to load what other distributions bring (``--no-plugins`` turns it off).
    :param package: the package whose modules are the first-party plugins.
    """

    def __init__(
        self,
        *,
        blocked: Iterable[str] = (),
        first_party: bool = True,
        third_party: bool = True,
        package: str = PACKAGE,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._blocked = _blocked_names(blocked, os.environ if environ is None else environ)
        self._manager = _Manager(spec.PROJECT)
        self._manager.add_hookspecs(spec)
        self._plugins: dict[str, _Plugin] = {}
        self._refused: list[PluginRow] = []
        self._by_id: dict[int, _Plugin] = {}
        self._warned: set[tuple[str, str]] = set()
        if first_party:
            for name in _module_names(package):
                known = _Plugin(name, "ortforge", ortforge.__version__, False)
                self._load(known, partial(import_module, f"{package}.{name}"))
        if third_party:
            self._load_third_party()
        for pattern in self._blocked:
            self._check_blocked(pattern)

    # What plugins gave

    @cached_property
    def backends(self) -> Registry[api.Backend]:
        """Execution providers, by short name."""
        return self._register("backends")

    @cached_property
    def allocators(self) -> Registry[api.Allocator]:
        """Memory allocators, by name."""
        return self._register("allocators")

    @cached_property
    def passes(self) -> Registry[api.Pass]:
        """Model-to-model changes, by name."""
        return self._register("passes")

    @cached_property
    def sources(self) -> Registry[api.SourceResolver]:
        """Resolvers of ONNX Runtime source trees, by scheme."""
        return self._register("sources")

    @cached_property
    def models(self) -> Registry[api.Resolver]:
        """Resolvers of model references, by scheme."""
        return self._register("models")

    @cached_property
    def datasets(self) -> Registry[api.DatasetSource]:
        """Makers of samples, by scheme."""
        return self._register("datasets")

    @cached_property
    def executors(self) -> Registry[api.Executor]:
        """Places where steps run, by name."""
        return self._register("executors")

    @cached_property
    def metrics(self) -> Registry[api.Metric]:
        """Metrics, by name."""
        return self._register("metrics")

    @cached_property
    def reports(self) -> Registry[api.Report]:
        """Report writers, by name."""
        return self._register("reports")

    @cached_property
    def checks(self) -> Registry[api.Check]:
        """Doctor checks, by name."""
        return self._register("checks")

    @cached_property
    def commands(self) -> Registry[api.Command]:
        """Extra CLI verbs, by name."""
        return self._register("commands")

    def owner(self, kind: str, name: str) -> tuple[str, str, str]:
        """Return who gave a thing: ``(plugin, distribution, version)``. It is part of step keys.

        :param kind: the attribute that holds it (``"passes"``).
        :raises PluginError: there is no such thing.
        """
        registry: Registry[Any] = getattr(self, kind)
        try:
            return registry.owners[name]
        except KeyError:
            raise registry.unknown(name) from None

    def rows(self) -> tuple[PluginRow, ...]:
        """Return a row per plugin, after calling every registration hook, so that nothing wrong stays hidden."""
        for kind in KINDS:
            getattr(self, kind)
        rows = [plugin.row() for plugin in self._plugins.values()]
        return tuple(sorted((*rows, *self._refused), key=lambda row: (row.distribution != "ortforge", row.name)))

    def refused(self) -> tuple[PluginRow, ...]:
        """Return the rows of what was not loaded at all: names that are taken, and names to block that none has."""
        return tuple(self._refused)

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Tell every plugin that wants to know. A plugin that fails gets a row and a warning, and the run goes on.

        :param hook_name: one of the notifications of :mod:`ortforge.api.spec` (``"ortforge_run_started"``).
        """
        for call in reversed(getattr(self._manager.hook, hook_name).get_hookimpls()):
            plugin = self._by_id[id(call.plugin)]
            error = _guarded(partial(call.function, *(arguments[name] for name in call.argnames)))[1]
            if error:
                plugin.complain(f"{hook_name}: {error}")
                if (plugin.name, hook_name) not in self._warned:
                    self._warned.add((plugin.name, hook_name))
                    _log.warning("plugin %s failed in %s: %s", plugin.name, hook_name, error)

    # Loading

    def _load_third_party(self) -> None:
        for entry in _entry_points(self._refused):
            distribution = entry.dist.name if entry.dist else ""
            version = entry.dist.version if entry.dist else ""
            self._load(_Plugin(entry.name, distribution, version, True), partial(_load_entry, entry))

    def _load(self, plugin: _Plugin, load: Callable[[], Any]) -> None:
        if plugin.name in self._plugins:
            other = self._plugins[plugin.name]
            plugin.fail(f"its name is taken by the plugin of {other.distribution} {other.version}".rstrip())
            self._refused.append(plugin.row())
            return
        self._plugins[plugin.name] = plugin
        if any(fnmatchcase(plugin.name, pattern) for pattern in self._blocked):
            plugin.status = "blocked"
            return
        loaded, error = _guarded(load)
        if not error:
            error = _api_problem(loaded)
        if not error:
            error = self._adopt(plugin, loaded)
        if error:
            plugin.fail(error)

    def _adopt(self, plugin: _Plugin, loaded: Any) -> str:
        """Register a loaded plugin with pluggy; return what is wrong with it, or ``""``."""
        _, error = _guarded(lambda: self._manager.register(loaded, plugin.name))
        if error:
            with contextlib.suppress(Exception):  # pluggy before 1.7 leaves a refused plugin half registered
                self._manager.unregister(name=plugin.name)
            return error
        calls = [call for caller in self._manager.get_hookcallers(loaded) or () for call in caller.get_hookimpls()]
        if any(call.plugin is loaded and (call.wrapper or call.hookwrapper) for call in calls):
            self._manager.unregister(name=plugin.name)
            return "it wraps a hook (wrapper=True), and one plugin must not change what others give"
        self._by_id[id(loaded)] = plugin
        plugin.hooks = tuple(sorted(caller.name for caller in self._manager.get_hookcallers(loaded) or ()))
        self._check_hook_names(plugin, loaded)
        return ""

    def _check_hook_names(self, plugin: _Plugin, loaded: Any) -> None:
        """Name hooks that do not exist, and hooks that are no functions, instead of passing over them."""
        known = [name for name in dir(spec) if name.startswith("ortforge_")]
        for name in plugin.hooks:
            caller = getattr(self._manager.hook, name)
            optional = any(call.optionalhook for call in caller.get_hookimpls() if call.plugin is loaded)
            if not caller.has_spec() and not optional:
                close = nearest(name, known)
                plugin.complain(f"unknown hook {name}" + (f"; perhaps {close} was meant" if close else ""))
        for name in known:
            value = inspect.getattr_static(loaded, name, None)
            if value is not None and not _is_hook(loaded, name):
                plugin.complain(f"{name} is {describe(value)}, not a function that returns one")

    def _check_blocked(self, pattern: str) -> None:
        if not any(fnmatchcase(name, pattern) for name in self._plugins):
            close = nearest(pattern, self._plugins)
            hint = f"; perhaps {close} was meant" if close else ""
            self._refused.append(PluginRow(pattern, "", "", (), "unknown", f"no plugin has this name{hint}"))

    # Registering

    def _register(self, kind: str) -> Registry[Any]:
        """Call one registration hook of every plugin, first-party plugins first, each guarded on its own."""
        entries: dict[str, Any] = {}
        owners: dict[str, tuple[str, str, str]] = {}
        calls = getattr(self._manager.hook, f"ortforge_{kind}").get_hookimpls()
        order = list(self._plugins.values())
        for plugin, call in sorted(
            ((self._by_id[id(call.plugin)], call) for call in calls), key=lambda pair: order.index(pair[0])
        ):
            given, error = _guarded(partial(_call, call.function))
            if error:
                plugin.complain(f"ortforge_{kind}: {error}")
            for item in given or ():
                problem = item_problem(kind, item, plugin.third_party) or self._taken(kind, item, owners)
                if problem:
                    plugin.complain(f"ortforge_{kind}: {problem}")
                    continue
                name = getattr(item, KINDS[kind].named_by)
                owners[name] = plugin.owner
                entries[name] = guarded(item, plugin.name) if plugin.third_party else item
        return Registry(kind, entries, owners)

    def _taken(self, kind: str, item: Any, owners: Mapping[str, tuple[str, str, str]]) -> str:
        named_by = KINDS[kind].named_by
        name = getattr(item, named_by)
        return f"the {named_by} {name!r} is taken by the plugin {owners[name][0]}" if name in owners else ""


def third_party_commands(
    *, blocked: Iterable[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[api.Command, ...]:
    """Return the CLI verbs of other distributions. Costs one look at entry points where there are none."""
    if not _entry_points([]):
        return ()
    plugins = Plugins(blocked=blocked, first_party=False, environ=environ)
    return tuple(plugins.commands.values())


def _blocked_names(blocked: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names to block: ``-p no:NAME`` may be given as ``NAME`` or as ``no:NAME``."""
    named = [name.removeprefix("no:").strip() for name in (*blocked, *environ.get(DISABLE_VARIABLE, "").split(","))]
    return tuple(dict.fromkeys(name for name in named if name))


def _module_names(package: str) -> list[str]:
    """Return the plugin modules below a package (``backends.cpu``), sorted; underscored ones are helpers."""

    def below(paths: Iterable[str], prefix: str) -> Iterator[str]:
        for module in pkgutil.iter_modules(paths):
            if module.name.startswith("_"):
                continue
            if module.ispkg:
                folders = [os.path.join(path, module.name) for path in paths]  # noqa: PTH118  (pkgutil takes strings)
                yield from below(folders, f"{prefix}{module.name}.")
            else:
                yield prefix + module.name

    return sorted(below(list(import_module(package).__path__), ""))


def _entry_points(refused: list[PluginRow]) -> list[metadata.EntryPoint]:
    """Return the entry points of our group in a fixed order. Unreadable ones are rows of ``refused``, not an end."""
    found, error = _guarded(lambda: list(metadata.entry_points(group=spec.PROJECT)))
    if error:  # one distribution spoils them all: ask each on its own
        found = []
        for distribution in metadata.distributions():
            own, error = _guarded(partial(_own_entry_points, distribution))
            found += own or []
            if error:
                name = distribution.metadata["Name"] or "unknown"
                problem = f"its entry points cannot be read: {error}"
                refused.append(PluginRow(name, name, distribution.version, (), "failed", problem))
    return sorted(found or (), key=lambda entry: (entry.dist.name if entry.dist else "", entry.name))


def _load_entry(entry: metadata.EntryPoint) -> Any:
    if entry.pattern.match(entry.value) is None:
        raise ValueError(f"the entry point {entry.value!r} is not of the form module or module:object")
    return entry.load()


def _own_entry_points(distribution: metadata.Distribution) -> list[metadata.EntryPoint]:
    return list(distribution.entry_points.select(group=spec.PROJECT))


def _guarded(call: Callable[[], T]) -> tuple[T | None, str]:
    """Call a plugin's code: its result, and what went wrong in one line. What it prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return call(), ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a plugin must not end the program
        text = " ".join(str(error).split())
        return None, f"{type(error).__name__}: {text}" if text else type(error).__name__


def _call(registration: Callable[[], object]) -> list[Any]:
    """Call a registration hook and exhaust what it returns: a generator fails only while it is read."""
    return items(registration())


def _api_problem(loaded: Any) -> str:
    """Return why the plugin API that a plugin was written for is not served, or ``""``."""
    if loaded is None:
        return "its entry point names nothing"
    wanted = getattr(loaded, "ORTFORGE_PLUGIN_API", api.PLUGIN_API)
    if not isinstance(wanted, int):
        return f"ORTFORGE_PLUGIN_API must be a number, not {wanted!r}"
    if api.OLDEST_PLUGIN_API <= wanted <= api.PLUGIN_API:
        return ""
    served = f"{api.OLDEST_PLUGIN_API} to {api.PLUGIN_API}"
    newer = "update ortforge" if wanted > api.PLUGIN_API else "update the plugin"
    return f"it is written for plugin API {wanted}, and this ortforge serves {served}: {newer}"
