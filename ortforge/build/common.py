"""What every build gets, whatever it is of: no tests, Ninja, the compiler cache, no telemetry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ortforge.api import BuildContribution
from ortforge.build.flags import explain

__all__ = ["common"]

_ALL: Final[Mapping[str, str | bool]] = {
    "cmake_generator": "Ninja",
    # GCC's newer warnings stop older versions (ORT 24290); whether they are bugs is not for a packager to settle.
    "compile_no_warning_as_error": True,
    "allow_running_as_root": True,
    "use_cache": True,
    # Compiled in since 1.29 unless it is left out; builds say nothing of their users to anybody.
    "no_telemetry": True,
}
_OF: Final[Mapping[str, Mapping[str, str | bool]]] = {
    "wheel": {"build_wheel": True, "build_shared_lib": True},
    "cxx": {"build_shared_lib": True},
}


def common(version: str, artifact: str) -> BuildContribution:
    """Return what a version takes of the common settings; a flag that it does not have is left out."""
    wanted = {**_ALL, **_OF[artifact]}
    return BuildContribution(
        flags={name: value for name, value in wanted.items() if explain(name, version).exists},
        cmake_defines={"CMAKE_EXPORT_COMPILE_COMMANDS": "ON", "onnxruntime_BUILD_UNIT_TESTS": "OFF"},
    )
