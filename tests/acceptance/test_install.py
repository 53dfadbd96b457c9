"""``pip install .`` and ``pip install -e .`` from a clean environment, with plugins and Dockerfiles, and light."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

LIMIT_MB = 150


@pytest.mark.parametrize("editable", [False, True], ids=["install", "editable"])
def test_clean_environment(tmp_path: Path, editable: bool) -> None:
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".git", ".venv*", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    shutil.rmtree(source / "build", ignore_errors=True)  # setuptools' leavings; ortforge/build is a part
    uv = [sys.executable, "-m", "uv"]
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    subprocess.run([*uv, "venv", "-q", "--seed", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    flags = ["-e", str(source)] if editable else [str(source)]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *flags], check=True, env=environment)
    command = str(python.with_name("ortforge"))
    listed = subprocess.run(
        [command, "plugins", "list", "--json"], check=True, capture_output=True, cwd=tmp_path, env=environment
    )
    rows = json.loads(listed.stdout)
    names = {row["name"] for row in rows}
    modules = [path.relative_to(ROOT / "plugins") for path in (ROOT / "plugins").rglob("*.py")]
    expected = {".".join(path.with_suffix("").parts) for path in modules if "/_" not in f"/{path}"}
    assert expected <= names
    assert all(row["status"] == "loaded" for row in rows), [row for row in rows if row["error"]]
    inside = "import importlib.resources as r; print([p.name for p in r.files('ortforge.dockerfiles').iterdir()])"
    shown = subprocess.run(
        [str(python), "-c", inside], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    for dockerfile in (ROOT / "dockerfiles").glob("*.Dockerfile"):
        assert dockerfile.name in shown.stdout
    if not editable:
        site = next((tmp_path / "venv" / "lib").glob("python3*/site-packages"))
        leave_out = {"pip", "setuptools"}
        total = sum(
            path.stat().st_size
            for path in site.rglob("*")
            if path.is_file() and path.relative_to(site).parts[0].split("-")[0] not in leave_out
        )
        assert total <= LIMIT_MB * 1e6, f"{total / 1e6:.0f} MB of site-packages"


def test_every_package_folder_is_declared() -> None:
    import tomllib

    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"])
    found = {"ortforge.dockerfiles"}
    for top, name in (("ortforge", "ortforge"), ("plugins", "ortforge.plugins")):
        for path in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *path.parent.relative_to(ROOT / top).parts]))
    assert declared == found
