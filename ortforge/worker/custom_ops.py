"""Custom-operator libraries: every session that this process opens knows the operators of the model's libraries.

The libraries lie in the folder of the model artefact, whose ``index.json`` names them. Passes, calibrators and ONNX
Runtime's own tools open sessions of their own, so the libraries are registered with every ``SessionOptions``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .protocol import JobError

__all__ = ["libraries_of", "register_everywhere"]

VARIABLE = "ORTFORGE_CUSTOM_OPS"
"""Environment variable with the paths of the libraries, for the processes that this one starts."""

_TRY = (
    "import sys, onnxruntime\n"
    "options = onnxruntime.SessionOptions()\n"
    "for path in sys.argv[1:]:\n"
    "    options.register_custom_ops_library(path)\n"
)

_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""``e_machine`` of an ELF header (System V ABI), as ``platform.machine()`` names it."""


def libraries_of(job: Mapping[str, Any]) -> list[str]:
    """Return the absolute paths of the custom-operator libraries that a job's models need."""
    paths = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    for model in (job.get("model"), *(job.get("models") or ())):
        folder = Path(str(model)).parent if model else None
        if folder is None or not (folder / "index.json").is_file():
            continue
        try:
            names = json.loads((folder / "index.json").read_text("utf-8")).get("custom_ops") or {}
        except (OSError, ValueError, AttributeError):
            continue
        paths += [str((folder / name).absolute()) for name in names]
    return list(dict.fromkeys(paths))


def register_everywhere(paths: Sequence[str]) -> None:
    """Register libraries with every session of this process, and of those that it starts.

    :raises JobError: kind ``failed``, when this ONNX Runtime cannot use a library; the text says why.
    """
    if not paths:
        return
    for path in paths:
        _check(path)
    os.environ[VARIABLE] = os.pathsep.join(paths)
    import onnxruntime

    plain_options, plain_session = onnxruntime.SessionOptions, onnxruntime.InferenceSession

    class SessionOptions(plain_options):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for path in paths:
                self.register_custom_ops_library(path)

    class InferenceSession(plain_session):  # type: ignore[misc, valid-type]
        def __init__(self, model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
            super().__init__(model, sess_options or SessionOptions(), *args, **kwargs)

    onnxruntime.SessionOptions, onnxruntime.InferenceSession = SessionOptions, InferenceSession


def _check(path: str) -> None:
    """Register a library in a process of its own first: one that does not fit may end the process.

    :raises JobError: kind ``failed``.
    """
    name = os.path.basename(path)  # noqa: PTH119
    if why := _unusable(path):
        raise JobError("failed", f"The custom-operator library {name} cannot be used: {why}.")
    tried = subprocess.run([sys.executable, "-c", _TRY, path], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return
    import onnxruntime

    version = onnxruntime.__version__
    if tried.returncode < 0:
        ended = signal.Signals(-tried.returncode).name
        raise JobError(
            "failed",
            f"The custom-operator library {name} ends the process with {ended} when onnxruntime {version} registers "
            "it. It may be built for a newer ONNX Runtime. Build it for the oldest runtime of the matrix.",
        )
    line = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    missing = re.search(r"undefined symbol: (\S+)", line)
    entry = "RegisterCustomOps" in line
    if missing and not entry:
        reason = f"its symbol {missing[1]} is defined nowhere. Link it with the library that defines the symbol"
    elif entry:
        reason = "it does not export RegisterCustomOps, so it is not a custom-operator library of ONNX Runtime"
    else:
        reason = line.rpartition(" : ")[2][:300]
    raise JobError("failed", f"onnxruntime {version} cannot register the custom-operator library {name}: {reason}.")


def _unusable(path: str) -> str:
    """Return why a file cannot be a library for this machine, or ``""``."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(20)
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return "" if sys.platform != "linux" else "it is not a shared library of Linux (ELF)"
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    name, here = _MACHINES.get(machine, f"machine type {machine}"), platform.machine()
    return (
        "" if name == here or here not in _MACHINES.values() else f"it is built for {name}, and this machine is {here}"
    )
