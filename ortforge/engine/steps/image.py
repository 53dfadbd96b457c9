"""image: a toolchain image for builds, whose identity is the image's own id."""

from __future__ import annotations

from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.build.toolchain import build_toolchain
from ortforge.container import connect
from ortforge.engine.work import Work
from ortforge.errors import BuildError


def run(task: Task, work: Work) -> TaskOutcome:
    """Build the image, or find that nothing of it changed (the engine's own layer cache says so)."""

    def say(text: str) -> None:
        if work.cancel.is_set():  # leaving the stream of its output is what ends the build of an image
            raise BuildError(f"{task.step_id} was stopped.", todo="Run again: finished instructions are kept.")
        work.say(text)

    image, facts = build_toolchain(connect(), task.parameters, say, base_folder=Path(task.context["base"]))
    return TaskOutcome("ok", image, facts)
