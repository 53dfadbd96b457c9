"""Runs the real command, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORTFORGE = str(Path(sys.executable).with_name("ortforge"))


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        return {cell["id"]: cell for cell in self.report["cells"]}


def ortforge(folder: Path, *arguments: str, **environment: str) -> Result:
    """Run the command in a folder, as a user would."""
    done = subprocess.run(
        [ORTFORGE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )
    return Result(done.returncode, done.stdout, done.stderr)
