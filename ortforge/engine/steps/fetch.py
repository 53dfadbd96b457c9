"""fetch: a model reference becomes a model artefact in the store."""

from __future__ import annotations

from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import Work
from ortforge.runtime.fetch import Fetch, ingest


def run(task: Task, work: Work) -> TaskOutcome:
    """Bring the model with its external data; the identity is the digest of the artefact folder."""
    resolver = work.plugins.models[task.parameters["scheme"]]
    with work.store.objects.scratch() as scratch:
        workdir = scratch / "fetch"
        workdir.mkdir()
        context = Fetch(workdir=workdir, base=Path(task.context["base"]), sha256=task.parameters["sha256"])
        fetched = resolver.fetch(task.context["reference"], context)
        artefact = scratch / "artefact"
        facts = ingest(fetched, artefact, sha256=task.parameters["sha256"])
        return TaskOutcome("ok", work.store.objects.put(artefact), facts)
