"""Where things lie in a build container, and what its volumes and labels are called."""

from __future__ import annotations

from typing import Final

from ortforge.store.hashing import digest_json

__all__ = [
    "BUILD",
    "CACHE_LABEL",
    "CCACHE",
    "CCACHE_LOG",
    "CMAKE",
    "CONFIG",
    "HOME",
    "INSTALL",
    "LABEL",
    "OPERATORS",
    "PACKAGING",
    "SOURCE",
    "VENDORED",
    "WORK",
    "ccache_volume",
    "tree_volume",
]

WORK: Final = "/work"
"""Mount point of the build tree's volume."""

SOURCE: Final = f"{WORK}/source"
BUILD: Final = f"{WORK}/build"
CMAKE: Final = f"{WORK}/cmake"
INSTALL: Final = f"{WORK}/install"
VENDORED: Final = f"{SOURCE}/mirror"
"""Where ORT's CMake looks for its dependencies' archives since 1.18: below the source tree, by address."""

OPERATORS: Final = "operators.config"
"""The list of operators that a reduced build has, below :data:`CMAKE`."""

HOME: Final = f"{WORK}/home"
CCACHE: Final = "/ccache"
CCACHE_LOG: Final = f"{WORK}/ccache.stats"
"""What the compiler cache did for one build: its own counters are of all builds that use it."""

CONFIG: Final = "Release"

CACHE_LABEL: Final = "ortforge.ccache"
"""Label of the volumes that hold compilers' results."""

LABEL: Final = "ortforge.tree"
"""Label of build containers and tree volumes; its value is the tree's name."""

PACKAGING: Final = "ortforge.packaging"
"""Label of the containers that wheels are repaired in; its value is the digest of what was compiled."""


def ccache_volume(user: str) -> str:
    """Return the name of a user's compiler cache (``uid:gid``): root's files are not another one's to replace."""
    uid = user.partition(":")[0]
    return "ortforge-ccache" if uid in ("", "0") else f"ortforge-ccache-{uid}"


def tree_volume(source: str, image: str, tree: str, user: str) -> str:
    """Return the name of a build tree's volume: builds that may go on from each other's object files share one.

    :param source: digest of the source. :param image: id of the toolchain image. :param tree: see
        :meth:`~ortforge.build.request.BuildRequest.tree`. :param user: ``uid:gid`` that owns the files.
    """
    return f"ortforge-tree-{digest_json([source, image, tree, user])[:16]}"
