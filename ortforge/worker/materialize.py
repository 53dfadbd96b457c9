"""materialize: a dataset's module writes its samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .module import load_module
from .opened_files import OpenedFiles
from .protocol import Channel, JobError

__all__ = ["DatasetJob", "run"]


@dataclass(frozen=True)
class DatasetJob:
    """What a dataset's ``materialize`` is given.

    A sample is a dict from input name to array; a sequence is a list of arrays, a map is a dict, and an optional input
    that is absent is ``None`` or left out. Inputs of types that numpy lacks take float or integer arrays.

    :param reference: the reference without its scheme; :param base: folder that relative paths start from.
    :param inputs: the model's inputs: ``name``, ``dtype`` and ``shape``, where a free dimension is a symbol or
        ``None``.
    :param limit: most samples wanted; 0 for no limit.
    :param write: ``write(feeds, label=None)`` keeps one sample and says whether more are wanted; beyond the limit
        nothing is kept.
    """

    reference: str
    base: Path
    options: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    limit: int
    write: Callable[..., bool]


class _EnoughSamples(BaseException):
    """Ends a job that needs the first samples alone; no ``except Exception`` of a dataset catches it."""


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do a ``materialize`` job and finish it.

    With ``record_files`` the result names the files that the dataset's code read. With ``stop_after`` the job ends
    after so many samples, although the code is offered the same ``limit``.
    """
    from .data_summary import DataSummary
    from .samples import SampleWriter
    from .structure import is_plain, type_name
    from .tensors import nearest_feeds

    inputs = list(job.get("inputs") or [])
    output = Path(job["output"])
    opened = (
        OpenedFiles(Path(job["base"]), [output, Path.cwd(), Path(job["module"])]) if job.get("record_files") else None
    )
    if opened:
        opened.start()
    module = load_module(job["module"], "materialize")
    channel.phase("apply")
    if output.exists():
        shutil.rmtree(output)
    types = {entry["name"]: type_name(str(entry["dtype"])) for entry in inputs}
    writer = SampleWriter(output, [name for name, kind in types.items() if is_plain(kind)], types)
    limit = int(job.get("limit") or 0)
    stop_after = int(job.get("stop_after") or 0)
    summary = DataSummary()

    def write(feeds: Mapping[str, Any], label: Any = None) -> bool:
        if not isinstance(feeds, Mapping):
            raise JobError("input", f"a sample must be a dict from input name to array, not {type(feeds).__name__}")
        if not limit or writer.count < limit:
            writer.write(nearest_feeds(feeds, types, writer.count), label)
            summary.add({name: value for name, value in feeds.items() if is_plain(types.get(name, ""))})
            if stop_after and writer.count >= stop_after:
                raise _EnoughSamples
        return not limit or writer.count < limit

    dataset = DatasetJob(
        reference=str(job["reference"]),
        base=Path(job["base"]),
        options=dict(job.get("options") or {}),
        inputs=inputs,
        limit=limit,
        write=write,
    )
    details: Mapping[str, Any] = {}
    with suppress(_EnoughSamples):
        details = module.materialize(dataset) or {}
    if not writer.count:
        raise JobError("input", f"{job['reference']} gave no samples")
    random = bool(details.get("random", job.get("random", False)))
    writer.close(random=random, source=str(details.get("source", job["reference"])))
    facts: dict[str, Any] = {"count": writer.count, "random": random, "labels": writer.labelled}
    if opened:
        facts |= {"files": opened.result(), "unseen": opened.unseen_readers()}
    channel.finish({**facts, "inputs": summary.result()})
