"""compile: ONNX Runtime from source, in a container; the object holds raw wheels (or the C++ tree) and facts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ortforge.api import Task, TaskOutcome
from ortforge.build.compile import Compilation, compile_source
from ortforge.build.request import BuildRequest
from ortforge.container import connect
from ortforge.engine.work import Work
from ortforge.errors import OrtforgeError
from ortforge.store.atomic import write_json

_LAST_LINES: Final = 60


def run(task: Task, work: Work) -> TaskOutcome:
    """Build it; what was compiled before is not compiled again. The whole log is kept, also of a failure.

    The log of a build that was killed or failed is added to by the next one, which goes on from there.
    """
    (_, source, _), (_, image, _), *needed = task.inputs
    request = BuildRequest.from_json(task.context["request"])
    if needed:  # the operators that the matrix's models need
        request = replace(request, operators=needed[0][2]["text"])
    logs = work.store.root / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"build-{request.target}-{task.key[:12]}.log"
    with work.store.objects.scratch() as scratch:
        out = scratch / "compiled"
        build = Compilation(
            engine=connect(),
            request=request,
            source=work.store.objects.get(source),
            source_digest=source,
            image=image,
            log=log,
            jobs=task.context["jobs"],
            memory=task.context["memory"],
            vendored=task.context["vendored"],
            until=task.parameters.get("until", ""),
            say=work.say,
            cancel=work.cancel,
        )
        try:
            with work.store.lock(build.tree, waiting=lambda holder: work.say(f"waiting for {holder}")):
                _begin(log, request.target)
                facts = compile_source(build, out)
        except OrtforgeError as error:
            result = {"log": str(log) if log.exists() else "", "exit_code": int(error.exit_code)}
            return TaskOutcome("failed", reason=str(error), log=_end_of(log), result=result)
        shutil.move(log, out / "build.log")
        write_json(out / "facts.json", facts)
        return TaskOutcome("ok", work.store.objects.put(out), facts)


def _begin(log: Path, target: str) -> None:
    """Say in the log when this attempt begins: there may be others before it."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"== {target}, {datetime.now(UTC).isoformat(timespec='seconds')}\n")


def _end_of(log: Path) -> str:
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
