"""The settings that say where uv takes packages from: two indexes may have two wheels of one name and version."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ortforge.store.hashing import digest_json, sha256_file

__all__ = ["index_digest", "index_settings", "project_settings"]

_VARIABLES: Final = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|INDEX_STRATEGY|EXCLUDE_NEWER"
    r"|EXCLUDE_NEWER_PACKAGE|FORK_STRATEGY|CONFIG_FILE|NO_CONFIG|NO_SOURCES|INDEX_\w+)"
)
"""Environment variables of uv 0.9 (https://docs.astral.sh/uv/reference/environment/) that choose packages."""

_CREDENTIALS: Final = re.compile(r"_(USERNAME|PASSWORD)$")
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]*@")

_KEYS: Final = frozenset(
    {"index", "index-url", "extra-index-url", "find-links", "no-index", "index-strategy", "exclude-newer"}
    | {"exclude-newer-package", "fork-strategy", "resolution", "prerelease", "no-binary", "no-binary-package"}
    | {"constraint-dependencies", "override-dependencies", "exclude-dependencies", "sources", "no-sources"}
)
"""Keys of uv.toml, at the top or below ``pip``, that choose packages."""


def index_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings by which uv chooses packages, without credentials; empty where everything is default.

    Read are uv's environment variables and its configuration files of the user and the system; for those of a project
    see :func:`project_settings`. uv does not read pip's configuration.
    """
    variables = {
        name: _USERINFO.sub("", value)
        for name, value in sorted(environ.items())
        if value and _VARIABLES.fullmatch(name) and not _CREDENTIALS.search(name)
    }
    files = {} if environ.get("UV_NO_CONFIG", "").lower() in ("1", "true") else _configured(environ)
    return variables | files


def index_digest(environ: Mapping[str, str]) -> str:
    """Return a digest of :func:`index_settings`, or ``""`` where everything is default."""
    settings = index_settings(environ)
    return digest_json(settings) if settings else ""


def project_settings(folder: Path) -> dict[str, str]:
    """Return the configuration files that uv finds above a folder it runs in, with the sha256 of each.

    ``uv.toml`` of every folder above counts, with ``""`` where there is none; ``pyproject.toml`` where it has a
    ``tool.uv`` table.
    """
    found = {}
    for parent in folder.absolute().parents:
        file, project = parent / "uv.toml", parent / "pyproject.toml"
        found[str(file)] = sha256_file(file) if file.is_file() else ""
        if project.is_file() and "tool.uv" in project.read_text(encoding="utf-8", errors="replace"):
            found[str(project)] = sha256_file(project)
    return found


def _configured(environ: Mapping[str, str]) -> dict[str, Any]:
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", ""), ".config")  # noqa: PTH118
    system = [Path(folder) / "uv" / "uv.toml" for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    system_file = next((path for path in (*system, Path("/etc/uv/uv.toml")) if path.is_file()), None)
    chosen = environ.get("UV_CONFIG_FILE")
    files = [Path(chosen)] if chosen else [Path(home) / "uv" / "uv.toml", *filter(None, [system_file])]
    found = {}
    for number, path in enumerate(files):
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # uv says what is wrong with it
        tables = {"": table, "pip.": table.get("pip") if isinstance(table.get("pip"), dict) else {}}
        for prefix, values in tables.items():
            for key in sorted(_KEYS & (values or {}).keys()):
                found[f"uv.toml {number}: {prefix}{key}"] = _USERINFO.sub("", repr((values or {})[key]))
    return found
