"""Says which extra options the installed quantizer does not know: it passes over them in silence.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["known_options", "refuse_unknown"]

ASKED: Final = re.compile(
    r"""["']([\w.]+)["']\s+in\s+(?:self\.)?extra_options|extra_options(?:\.get\(|\[)\s*["']([\w.]+)["']"""
)
"""How its code asks for an option."""

LISTED: Final = re.compile(r"""\(["'](Calib\w+)["'],\s*["']\w+["']\)""")
"""How it lists those that it hands on to its calibrators, beside the calibrators' own names for them."""

ASSIGNED: Final = re.compile(r"""\b\w+_option\s*=\s*["']([\w.]+)["']""")
"""How it names one before it asks for it."""

SPELLED: Final = re.compile(r"[A-Z]+[a-z]|extra\.")
"""How all of them are spelled, unlike the arguments of functions."""


def refuse_unknown(options: Iterable[str], ort_version: str, *, also: Collection[str] = ()) -> None:
    """Look for options in the installed quantizer.

    :param also: what else is followed, by the pass itself.
    :raises NotImplementedError: there is one that it does not know; the message gives the nearest names.
    """
    known = {*known_options(), *also}
    for name in options:
        if name not in known:
            near = get_close_matches(name, sorted(known), n=2, cutoff=0.6)
            guess = f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(sorted(known))}."
            raise NotImplementedError(
                f"extra_options has {name!r}, which the quantizer of ONNX Runtime {ort_version} does not know, and "
                f"would pass over in silence: {guess}"
            )


@cache
def known_options() -> frozenset[str]:
    """Return the names of all extra options that the installed quantizer's code asks for."""
    import onnxruntime.quantization as quantization

    texts = (path.read_text(encoding="utf-8") for path in Path(quantization.__file__).parent.rglob("*.py"))
    found = {
        name
        for text in texts
        if "extra_options" in text
        for pattern in (ASKED, LISTED, ASSIGNED)
        for match in pattern.findall(text)
        for name in ((match,) if isinstance(match, str) else match)
    }
    return frozenset(name for name in found if SPELLED.match(name))
