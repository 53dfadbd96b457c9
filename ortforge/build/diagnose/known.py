"""What is known of one cause: how it shows in a log, why it happens, what helps. The causes are data, by phase.

A *sign* is a line of a log as its tool prints it, with ``…`` for whatever stands there and ``^`` or ``$`` for the
line's start or end. There are no regular expressions: a sign is matched by looking for its fixed parts one after
the other, so no log, however odd, makes matching slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ELLIPSIS", "NEAR", "Kind", "Known", "Phase", "url"]

ELLIPSIS = "…"
#: Lines between two messages that belong together: CMake tries a download up to six times, at seven lines each.
NEAR = 50

Phase = Literal["configuring", "compiling", "packaging", "installing", "importing", "running"]

#: error: it stops what was going on; hint: it goes on, and something is lost or late;
#: harmless: it looks like an error, and people report it as one.
Kind = Literal["error", "hint", "harmless"]


@dataclass(frozen=True, slots=True)
class Known:
    """One known cause.

    ``{0}``, ``{1}`` … in ``title``, ``cause`` and ``remedy`` stand for what the sign's first, second … ``…`` was.

    :param signs: any of them in a line shows the cause.
    :param near: one of these must stand within ``within`` lines of the sign; none: nothing more is asked for.
    :param samples: what the tools really print; each one has to be recognized as this cause (the tests see to it).
    :param threads: issue numbers of ONNX Runtime, or ``owner/name#number`` of another repository.
    :param certain: the message can have hardly another cause.
    :param yields: gives way to any other error in the same line (it says less), or within ``NEAR`` lines (it only
        tells that something failed).
    """

    id: str
    phase: Phase
    title: str
    signs: tuple[str, ...]
    cause: str
    remedy: str
    samples: tuple[str, ...]
    threads: tuple[int | str, ...] = ()
    near: tuple[str, ...] = ()
    within: int = NEAR
    kind: Kind = "error"
    certain: bool = True
    yields: Literal["", "line", "near"] = ""


def url(thread: int | str) -> str:
    """Return where a thread is read.

    >>> url(18286)
    'https://github.com/microsoft/onnxruntime/issues/18286'
    """
    repository, _, number = thread.partition("#") if isinstance(thread, str) else ("microsoft/onnxruntime", "", thread)
    return f"https://github.com/{repository}/issues/{number}"
