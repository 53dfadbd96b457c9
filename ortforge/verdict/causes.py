"""Causes of a failure that the matrix itself shows: numbers that somebody wrote there, beside what there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Setting", "causes"]

_DIED: Final = frozenset({"crashed", "out-of-memory", "timeout", "failed"})

_THREADS_PER_CORE: Final = 8
"""More threads than this on each core are no setting that somebody chose for speed."""

_WORDS_OF_THREADS: Final = ("thread", "Resource temporarily unavailable", "pthread")


@dataclass(frozen=True, slots=True)
class Setting:
    """What the matrix says of a cell, beside what there is.

    :param threads: ``intra_op_threads`` and ``inter_op_threads`` of its session, by name.
    :param cores: of the device. :param memory: the limit in bytes, 0 where it is not known. :param model_bytes: of the
        file that is loaded, with its external data. :param functions: the sentence about nested functions, or ``""``.
    """

    threads: tuple[tuple[str, int], ...] = ()
    cores: int = 0
    memory: int = 0
    model_bytes: int = 0
    functions: str = ""


def causes(status: str, reason: str, setting: Setting) -> Iterator[str]:
    """Yield sentences about what the matrix shows, for a cell that did not run.

    :param reason: what was said of the failure so far.
    """
    if status not in _DIED:
        return
    for name, count in setting.threads:
        if setting.cores and count > _THREADS_PER_CORE * setting.cores:
            said = any(words in reason for words in _WORDS_OF_THREADS)
            ends = (
                "The system did not give it so many threads."
                if said
                else "A session starts them all when it is made; try it without this option."
            )
            yield f"The matrix sets {name} = {count:,} on a device of {setting.cores} cores. {ends}"
    if setting.memory and setting.model_bytes > setting.memory and status in ("out-of-memory", "failed", "crashed"):
        yield (
            f"The memory limit of the matrix ([limits] memory, {setting.memory:,} bytes) is smaller than the model, "
            f"which has {setting.model_bytes:,} bytes. Raise the limit."
        )
    if setting.functions and setting.functions not in reason:
        yield f"{setting.functions}. Export the model without nested functions."
