"""What the compilers of a configured build are told, to be shown: definitions, and options of the compiler. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["in_force"]

_WITH_VALUE: Final = frozenset({"-o", "-c", "-I", "-isystem", "-iquote", "-include", "-MF", "-MT", "-MQ", "-x"})
_PLACES: Final = ("-I", "-isystem", "-M", "-L", "-l")
"""Options that say where things lie, not how they are compiled."""


def in_force(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what holds in how many of ORT's own files; those of its dependencies are left out.

    :param entries: compile_commands.json, read.
    :returns: ``files`` (their number), ``defines`` ("NAME" or "NAME=value", to the number of files) and ``options``.

    >>> in_force([{"file": "/work/source/a.cc", "command": "c++ -DUSE_DNNL=1 -I/x -O3 -o a.o -c a.cc"}])
    {'files': 1, 'defines': {'USE_DNNL=1': 1}, 'options': {'-O3': 1}}
    """
    files = 0
    defines, options = Counter[str](), Counter[str]()
    for entry in entries:
        if "/_deps/" in str(entry["file"]):
            continue
        files += 1
        words = shlex.split(entry["command"]) if "command" in entry else list(entry["arguments"])
        told, how = _read(words)
        defines.update(told)
        options.update(how)
    return {"files": files, "defines": dict(sorted(defines.items())), "options": dict(sorted(options.items()))}


def _read(words: list[str]) -> tuple[set[str], set[str]]:
    """Return the definitions and options of one command."""
    defines: set[str] = set()
    options: set[str] = set()
    rest = iter(words[1:])
    for word in rest:
        if word == "-D":
            defines.add(next(rest, ""))
        elif word.startswith("-D"):
            defines.add(word[2:])
        elif word in _WITH_VALUE:
            next(rest, None)
        elif word.startswith("-") and not word.startswith(_PLACES):
            options.add(word)
    return defines, options
