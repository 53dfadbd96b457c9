"""image: a toolchain image for builds, whose identity is the image's own id."""

from __future__ import annotations

from pathlib import Path

from ortforge.api import Task, TaskOutcome
from ortforge.build.toolchain import build_toolchain
from ortforge.container import connect
from ortforge.engine.work import Work


def run(task: Task, work: Work) -> TaskOutcome:
    """Build the image, or find that nothing of it changed (the engine's own layer cache says so)."""
    image, facts = build_toolchain(connect(), task.parameters, work.say, base_folder=Path(task.context["base"]))
    return TaskOutcome("ok", image, facts)
