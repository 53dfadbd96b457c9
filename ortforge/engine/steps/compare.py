"""compare: a cell's outputs against the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ortforge.api import Task, TaskOutcome
from ortforge.engine.work import Work
from ortforge.errors import nearest
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
    if unknown := _unknown_role(task.parameters["roles"], [*expected.names, *answered.names]):
        return TaskOutcome("failed", reason=unknown)
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


def _unknown_role(roles: Mapping[str, str], names: Sequence[str]) -> str:
    """Return what is wrong with a role for an output that the model does not have, or ``""``."""
    known = list(dict.fromkeys(name.partition("[")[0] for name in names))
    for name in roles:
        if known and name not in known and name not in names:
            close = nearest(name, known)
            return (
                f'outputs = {{ "{name}" = "{roles[name]}" }} names an output that the model does not have.'
                + (f' Did you mean "{close}"?' if close else "")
                + f" Its outputs are: {', '.join(known)}."
            )
    return ""


def _owner(plugin: str, distribution: str, version: str) -> str:
    return f"plugin {plugin} ({f'{distribution} {version}'.strip() or 'of no distribution'})"
