"""The commands of a build, as argument lists: configure, compile, package. Pure, so that they can be shown before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ortforge.build.flags import Flag, arguments
from ortforge.build.layout import BUILD, CONFIG, INSTALL, SOURCE
from ortforge.build.request import BuildRequest

__all__ = ["compile_argv", "configure_argv", "install_argv", "jobs_for", "package_argv"]

BYTES_PER_JOB: Final = 2 << 30
"""Memory that one compiler of ORT's largest files takes, with room; nvcc's take twice that."""

_WHEEL: Final = ("build_wheel", "enable_pybind")
"""What makes build.py package a wheel, too: left out while only compiling."""


def jobs_for(cores: float, memory: int, *, cuda: bool = False) -> int:
    """Return how many compilers may run side by side in a container's cores and memory (bytes).

    >>> jobs_for(16, 8 << 30), jobs_for(2, 64 << 30)
    (4, 2)
    """
    each = BYTES_PER_JOB * (2 if cuda else 1)
    return max(1, min(round(cores) or 1, memory // each))


def _build_py(request: BuildRequest, python: str, stages: list[str], shapes: Mapping[str, Flag] | None) -> list[str]:
    flags: dict[str, Any] = {
        name: value
        for name, value in request.flags.items()
        if value is not False and (name not in _WHEEL or "--update" in stages or "--build_wheel" in stages)
    }
    extra = tuple(f"{name}={value}" for name, value in request.defines.items())
    argv = [python, f"{SOURCE}/tools/ci_build/build.py", "--build_dir", BUILD, "--config", CONFIG, *stages]
    argv += arguments({name: value for name, value in flags.items() if f"--{name}" not in stages}, shapes)
    return [*argv, *(["--cmake_extra_defines", *extra] if extra else [])]


def configure_argv(request: BuildRequest, python: str, jobs: int, shapes: Mapping[str, Flag] | None) -> list[str]:
    """Return build.py's call that only configures."""
    return _build_py(request, python, ["--update", "--parallel", str(jobs)], shapes)


def compile_argv(
    request: BuildRequest, python: str, jobs: int, shapes: Mapping[str, Flag] | None, goal: str = ""
) -> list[str]:
    """Return build.py's call that only compiles; the number of jobs is always given.

    :param goal: one of the build system's targets; all of them when none is named.
    """
    only = ["--target", goal] if goal else []
    return [*_build_py(request, python, ["--build", "--parallel", str(jobs)], shapes), *only]


def package_argv(request: BuildRequest, python: str, jobs: int, shapes: Mapping[str, Flag] | None) -> list[str]:
    """Return build.py's call that makes the wheel of what is compiled."""
    return _build_py(request, python, ["--build", "--build_wheel", "--parallel", str(jobs)], shapes)


def install_argv() -> list[str]:
    """Return the call that gathers headers and libraries of a C++ build."""
    return ["cmake", "--install", f"{BUILD}/{CONFIG}", "--prefix", INSTALL]
