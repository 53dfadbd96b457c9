"""Asks a Python what it is: version, ABI, C library, and what its binaries hold.

The question is a small program without imports of ours, so that it can be put to an interpreter anywhere, in a
container too.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ortforge.errors import ProvisionError

__all__ = ["QUESTION", "Interpreter", "ask", "read_answer"]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Facts about the interpreter. ``sha256`` is of its binary and, where it is shared, of libpython.

    ``binaries`` are those files; the first is the interpreter that the environment was made from. ``sites`` are the
    environment's own site-packages.
    """

    version: str
    implementation: str
    abi: str
    platform: str
    libc: str
    sha256: str
    binaries: tuple[str, ...]
    sites: tuple[str, ...]


QUESTION: Final = """
import hashlib, json, os, platform, sys, sysconfig
maps = "/proc/self/maps"
lines = open(maps).read().splitlines() if os.path.exists(maps) else []
shared = sorted({line.split(None, 5)[5] for line in lines if "/libpython" in line})
binaries, content = [os.path.realpath(sys.executable), *shared], hashlib.sha256()
for binary in binaries:
    digest = hashlib.sha256()
    with open(binary, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    content.update(digest.digest())
musl = "musl" if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")) else ""
print(json.dumps({
    "version": platform.python_version(), "implementation": sys.implementation.name,
    "abi": sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag, "platform": sysconfig.get_platform(),
    "libc": " ".join(platform.libc_ver()).strip() or musl, "sha256": content.hexdigest(), "binaries": binaries,
    "sites": sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})}), flush=True)
"""
"""A program that prints the answer as one line of JSON."""


def read_answer(line: str) -> Interpreter:
    """Read what :data:`QUESTION` printed.

    :raises ValueError: it is not that.
    """
    facts: Mapping[str, Any] = json.loads(line)
    try:
        return Interpreter(**{**facts, "binaries": tuple(facts["binaries"]), "sites": tuple(facts["sites"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{line[:200]!r} does not describe an interpreter") from error


def ask(python: Path, asked: str) -> Interpreter:
    """Ask an interpreter of this machine. ``asked`` is what the user called it.

    :raises ProvisionError: it does not start.
    """
    done = subprocess.run([str(python), "-I", "-c", QUESTION], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProvisionError(
            f"The interpreter of the environment does not start: {asked}.",
            meant=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "",
            todo="Give the target another `python`.",
        )
    return read_answer(done.stdout)
