"""apply: one pass, from model to model."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .module import load_module
from .protocol import Channel, JobError

if TYPE_CHECKING:
    from .samples import Array

__all__ = ["PassJob", "run"]


@dataclass(frozen=True)
class PassJob:
    """What a pass is given.

    :param output: does not exist yet; its folder is its own. :param parameters: as the recipe has them.
    :param samples: calibration samples, each an .npz; prefer :meth:`feeds`.
    :param ep: the EP's short name; :param ep_name: ORT's name of it; :param ep_options: its provider options.
    :param workdir: an empty folder for anything that is not kept.
    """

    model: Path
    output: Path
    parameters: Mapping[str, Any]
    samples: tuple[Path, ...]
    folder: Path | None
    ep: str
    ep_name: str
    ep_options: Mapping[str, str]
    ort_version: str
    cpu_flags: tuple[str, ...]
    workdir: Path

    def feeds(self) -> Iterator[dict[str, Array]]:
        """Read the calibration samples one at a time, as dicts from input name to array."""
        if self.folder is None:
            return iter(())
        from .samples import Samples

        return iter(Samples(self.folder))


def run(job: Mapping[str, Any], channel: Channel) -> None:
    """Do an ``apply`` job and finish it."""
    folder = Path(job["samples"]) if job.get("samples") else None
    paths: tuple[Path, ...] = ()
    if folder is not None:
        from .samples import Samples

        paths = tuple(Samples(folder).paths)
    module = load_module(job["module"], "apply")
    output = Path(job["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    workdir = Path.cwd() / "work"
    workdir.mkdir()
    pass_job = PassJob(
        model=Path(job["model"]),
        output=output,
        parameters=dict(job.get("parameters") or {}),
        samples=paths,
        folder=folder,
        ep=str(job.get("ep", "")),
        ep_name=str(job.get("ep_name", "")),
        ep_options=dict(job.get("ep_options") or {}),
        ort_version=str(job.get("ort_version") or _ort_version()),
        cpu_flags=tuple(job.get("cpu_flags") or ()),
        workdir=workdir,
    )
    channel.phase("apply")
    details = module.apply(pass_job)
    if not isinstance(details, Mapping):
        raise JobError("failed", f"apply(job) must return a dict, and returned {type(details).__name__}")
    made = output.parent / str(details.get("file", output.name))
    if not made.is_file():
        raise JobError("failed", f"the pass said it was done and wrote no {made.name}")
    channel.finish({"details": dict(details)})


def _ort_version() -> str:
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        import onnxruntime  # another distribution's name, e.g. onnxruntime-gpu

        return str(onnxruntime.__version__)
