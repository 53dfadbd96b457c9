"""compile: ONNX Runtime from source, in a container; the object holds raw wheels (or the C++ tree) and facts."""

from __future__ import annotations

from dataclasses import replace

from ortforge.api import Task, TaskOutcome
from ortforge.build import layout
from ortforge.build.compile import Compilation, compile_source
from ortforge.build.request import BuildRequest
from ortforge.container import caller, connect
from ortforge.engine.work import Work
from ortforge.errors import BuildError
from ortforge.store.atomic import write_json

_LAST_LINES = 60


def run(task: Task, work: Work) -> TaskOutcome:
    """Build it; what was compiled before is not compiled again. The whole log is kept, also of a failure."""
    (_, source, _), (_, image, _), *needed = task.inputs
    request = BuildRequest.from_json(task.context["request"])
    if needed:  # the operators that the matrix's models need
        request = replace(request, operators=needed[0][2]["text"])
    logs = work.store.root / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"build-{request.target}-{task.key[:12]}.log"
    log.unlink(missing_ok=True)
    engine = connect()
    with work.store.objects.scratch() as scratch:
        out = scratch / "compiled"
        build = Compilation(
            engine=engine,
            request=request,
            source=work.store.objects.get(source),
            source_digest=source,
            image=image,
            log=log,
            jobs=task.context["jobs"],
            memory=task.context["memory"],
            vendored=task.context["vendored"],
            say=work.say,
            cancel=work.cancel,
        )
        tree = layout.tree_volume(source, image, request.tree(), caller())
        try:
            with work.store.lock(tree):  # one build at a time goes on in a tree
                facts = compile_source(build, out)
        except BuildError as error:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
            return TaskOutcome(
                "failed", reason=str(error), log="\n".join(tail), result={"log": str(log), "exit_code": 3}
            )
        (out / "build.log").write_bytes(log.read_bytes())
        write_json(out / "facts.json", facts)
        return TaskOutcome("ok", work.store.objects.put(out), {**facts, "log": str(log)})
