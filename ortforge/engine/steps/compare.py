"""compare: a cell's outputs against the reference's."""

from __future__ import annotations

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import Work
from ortforge.store.hashing import digest_json


def run(task: Task, work: Work) -> TaskOutcome:
    """Compute parity and the model's task metrics, streaming both sides sample by sample."""
    # numpy is imported with these, and only when something is really compared.
    from ortforge.portable.comparison.parity import compare
    from ortforge.verdict.structure import structure_problems
    from ortforge.worker.samples import Samples

    (_, reference, _), (_, candidate, _), (_, data, _) = task.inputs
    objects = work.store.objects
    metrics = {name: work.plugins.metrics[name] for name in task.parameters["tasks"]}
    owners = {name: _owner(*work.plugins.owner("metrics", name)) for name in metrics}
    expected, answered = Samples(objects.get(reference)), Samples(objects.get(candidate))
    found = compare(
        expected,
        answered,
        labels=Samples(objects.get(data)).labels,
        metrics=metrics,
        owners=owners,
        roles=task.parameters["roles"],
    )
    found["problems"] = [*structure_problems(expected.structure, answered.structure), *found["problems"]]
    errors = [entry["error"] for entry in found["tasks"].values() if "error" in entry]
    if errors:
        # What a plugin raised is tried again by the next run; the cell is judged by what was compared (engine/cells).
        return TaskOutcome("failed", result=found, reason=" ".join(errors))
    return TaskOutcome("ok", digest_json(found), found)


def _owner(plugin: str, distribution: str, version: str) -> str:
    return f"plugin {plugin} ({f'{distribution} {version}'.strip() or 'of no distribution'})"
