"""Reads flags as people have them: a build.py command line out of a guide, or ``name=value`` words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ortforge.build.flags.flag import canonical

__all__ = ["read_command_line"]


def read_command_line(words: Iterable[str]) -> dict[str, Any]:
    """Return flags by name; nothing is judged, so that what is wrong can be explained.

    A word with dashes in front takes the words after it as its values, as on build.py's command line; one without is
    ``name`` or ``name=value``.

    >>> read_command_line(["--use_dnnl", "--parallel", "4", "enable_lto", "use_openvino=CPU"])
    {'use_dnnl': True, 'parallel': ('4', 'enable_lto', 'use_openvino=CPU')}
    >>> read_command_line(["use_dnnl", "parallel=4", "use_cuda=false"])
    {'use_dnnl': True, 'parallel': '4', 'use_cuda': False}
    """
    found: dict[str, tuple[str, ...]] = {}
    current = ""
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            # With "=" the flag has its value, and the next word belongs to nobody; build.py would refuse it.
            current = canonical(name)
            found[current] = (*found.get(current, ()), *([value] if equals else []))
        elif current:
            found[current] = (*found[current], word)
        else:
            found[canonical(name)] = (*found.get(canonical(name), ()), *([value] if equals else []))
    return {name: _value(parts) for name, parts in found.items() if name}


def _value(parts: tuple[str, ...]) -> Any:
    if not parts or parts == ("true",):
        return True
    if parts == ("false",):
        return False
    return parts[0] if len(parts) == 1 else parts
