"""Where ORT's dependencies come from, as settings of a build: downloaded, gathered before, or the image's packages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from ortforge.api import BuildContribution
from ortforge.build import vendor
from ortforge.build.layout import CMAKE, VENDORED
from ortforge.errors import ConfigurationError, nearest

__all__ = ["MODES", "Dependencies", "dependencies"]

MODES: Final = ("download", "system", "vendored")

_MODULES: Final = dict.fromkeys(("cuda", "tensorrt"), ("cudnn_frontend", "cutlass", "ortforge_compare"))
"""CMake modules that stand in for ORT's own of the same names, by EP. They are part of the key of a build, so one that
does without an EP does without its modules."""

_OFFLINE: Final = {"FETCHCONTENT_FULLY_DISCONNECTED": "ON"}


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a kind of dependencies adds to a build.

    :param contribution: flags, definitions and system packages. :param files: CMake files, by their path below
        :data:`~ortforge.build.layout.CMAKE`.
    """

    contribution: BuildContribution
    files: dict[str, str] = field(default_factory=dict)


def dependencies(mode: str, eps: Iterable[str] = ()) -> Dependencies:
    """Return what a mode adds to a build with these EPs, by their backends' names.

    ``system`` gives ORT's CMake a dependency provider (CMake 3.24), so no file of ORT changes: what CMake's own search
    finds is taken (``FETCHCONTENT_TRY_FIND_PACKAGE_MODE``), and the provider answers for the rest. Distributions have
    no static protobuf that is position independent, so it is the full, shared one. ``vendored`` archives lie where
    ORT's CMake looks for them by itself since 1.18: below ``mirror/`` in its tree.

    :raises ConfigurationError: there is no such mode.
    """
    if mode == "download":
        return Dependencies(BuildContribution())
    if mode == "vendored":
        return Dependencies(BuildContribution(environment=vendor.environment(VENDORED)))
    if mode == "system":
        folder = files("ortforge.build") / "cmake"
        own = {f"modules/{name}.cmake" for ep in eps for name in _MODULES.get(ep, ())}
        names = ("system.cmake", "eigen_nan.inc", "modules/dnnl.cmake", *sorted(own))
        return Dependencies(
            BuildContribution(
                flags={"use_full_protobuf": True, "skip_submodule_sync": True},
                cmake_defines={
                    **_OFFLINE,
                    "CMAKE_PROJECT_TOP_LEVEL_INCLUDES": f"{CMAKE}/system.cmake",
                    "FETCHCONTENT_TRY_FIND_PACKAGE_MODE": "ALWAYS",
                    "safeint_SOURCE_DIR": "/usr/include/safeint",
                },
                source_files={
                    # Distributions strip their sources of data; a copy rule of ORT's fails when nothing is left.
                    "onnxruntime/python/datasets/placeholder.pb": (
                        "Keeps a copy rule of the build from an empty list.\n"
                    ),
                },
            ),
            {name: (folder / name).read_text(encoding="utf-8") for name in names},
        )
    close = nearest(mode, MODES)
    raise ConfigurationError(
        f"there is no kind of dependencies called {mode!r}.",
        meant=f"Perhaps {close!r} was meant." if close else "",
        todo=f"There are: {', '.join(MODES)}.",
    )
