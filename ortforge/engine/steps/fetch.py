"""fetch: a model reference becomes a model artefact in the store."""

from __future__ import annotations

from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.engine.artefacts import add_custom_ops
from ortforge.engine.unchanged import refuse_changed
from ortforge.engine.work import Work
from ortforge.errors import DamagedModelError
from ortforge.runtime.fetch import Fetcher, fetch_model


def run(task: Task, work: Work) -> TaskOutcome:
    """Bring the model with its external data; the identity is the digest of the artefact folder."""
    resolver = work.plugins.models[task.parameters["scheme"]]
    with work.store.objects.scratch() as scratch:
        workdir = scratch / "fetch"
        workdir.mkdir()
        fetcher = Fetcher(workdir=workdir, base=Path(task.context["base"]), sha256=task.parameters["sha256"])
        artefact = scratch / "artefact"
        try:
            facts = fetch_model(resolver, task.context["reference"], fetcher, artefact)
        except DamagedModelError as error:
            return TaskOutcome("failed", reason=str(error), result={"damaged": True})
        if task.parameters["fingerprint"]:
            base, reference = Path(task.context["base"]), task.context["reference"]
            files = [base / Path(reference).parent / name for name in (Path(reference).name, *facts["external"])]
            now = resolver.fingerprint(reference, base)
            refuse_changed(task.parameters["fingerprint"], now, f"{resolver.scheme}:{reference}", lambda: files)
        if libraries := task.context.get("custom_ops"):
            facts["custom_ops"] = add_custom_ops(artefact, map(Path, libraries))
        facts["reference"] = f"{resolver.scheme}:{task.context['reference']}"
        return TaskOutcome("ok", work.store.objects.put(artefact), facts)
