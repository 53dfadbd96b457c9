"""From flags as data to the argument list of build.py; no shell ever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ortforge.build.flags.flag import Flag, parts_of

__all__ = ["arguments"]


def arguments(flags: Mapping[str, Any], shapes: Mapping[str, Flag] | None = None) -> list[str]:
    """Return build.py's arguments, sorted by flag; the same flags always give the same list.

    A value is written with its flag (``--flag=value``), so that one that begins with a dash or ``@`` is still a value.

    :param flags: name to value: ``True`` for a bare flag, ``False`` for one that is not given, a tuple for several.
    :param shapes: what the tree's parser has; without it, several values are given by repeating the flag.

    >>> arguments({"use_dnnl": True, "parallel": 4, "use_cuda": False}, None)
    ['--parallel=4', '--use_dnnl']
    """
    argv: list[str] = []
    for name in sorted(flags):
        value = flags[name]
        if value is False or value is None:
            continue
        shape = (shapes or {}).get(name)
        option = shape.option if shape else f"--{name}"
        parts = parts_of(value)
        if not parts:
            argv.append(option)
        elif shape is not None and len(parts) > 1 and not shape.is_repeated:
            # The plain action keeps only the last time that a flag is given.
            argv += [option, *parts]
        else:
            argv += [f"{option}={part}" for part in parts]
    return argv
