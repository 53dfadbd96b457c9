"""Digests of plugins' code, for the keys of what that code makes."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ortforge.store.hashing import digest_file, digest_json

__all__ = ["code_of", "module_digest"]

_IMPORT: Final = re.compile(
    rb"^[ \t]*(?:from[ \t]+[\w.]+[ \t]+import[ \t]*\([^)]*\)|(?:from|import)[ \t][^\n]*)", re.MULTILINE
)


def module_digest(module: str) -> str:
    """Digest a plugin's module with the ``.py`` files beside it that it imports, and those that they import in turn.

    Files that begin with an underscore are a folder's helpers and always count. What is imported from installed
    distributions is not seen: it belongs to the environment that the module runs in.

    :raises OSError: the module cannot be read.
    """
    first = Path(module)
    beside = {path.stem.encode(): path for path in first.parent.glob("*.py") if path.name != "__init__.py"}
    helpers = [path for path in beside.values() if path.name.startswith("_")]
    found, waiting = {first}, [first, *helpers]
    while waiting:
        path = waiting.pop()
        found.add(path)
        words = {word for line in _IMPORT.findall(path.read_bytes()) for word in re.findall(rb"\w+", line)}
        waiting += [beside[word] for word in words & beside.keys() if beside[word] not in found]
    return digest_json([[path.name, digest_file(path)] for path in sorted(found)])


def code_of(function: Callable[..., Any]) -> str:
    """Digest the module that a plugin's function is from; ``""`` where it has no file."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__module__", None) or type(function).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return module_digest(file) if file and file.endswith(".py") else ""
