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
    """Digest a plugin's module with the ``.py`` files of its folder that it imports, and those that they import.

    Files beside it that begin with an underscore are the folder's helpers and always count; those in packages that do
    (``_models/graph.py``) count where an import names them. What is imported from installed distributions is not seen:
    it belongs to the environment that the module runs in.

    :raises OSError: the module cannot be read.
    """
    first = Path(module)
    beside = [path for path in first.parent.glob("*.py") if path.name != "__init__.py"]
    packaged = [path for package in first.parent.glob("_*/") for path in package.rglob("*.py")]
    named: dict[bytes, list[Path]] = {}
    for path in (*beside, *packaged):
        stem = path.parent.name if path.name == "__init__.py" else path.stem
        named.setdefault(stem.encode(), []).append(path)
    found, waiting = {first}, [first, *(path for path in beside if path.name.startswith("_"))]
    while waiting:
        path = waiting.pop()
        found.add(path)
        words = {word for line in _IMPORT.findall(path.read_bytes()) for word in re.findall(rb"\w+", line)}
        waiting += [other for word in words & named.keys() for other in named[word] if other not in found]
    return digest_json([[str(path.relative_to(first.parent)), digest_file(path)] for path in sorted(found)])


def code_of(function: Callable[..., Any]) -> str:
    """Digest the module that a plugin's function is from; ``""`` where it has no file."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__module__", None) or type(function).__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return module_digest(file) if file and file.endswith(".py") else ""
