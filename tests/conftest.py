"""What several test files need: real distributions with entry points, and a Linux machine to describe."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ortforge.api import Device

# Machines that run tests are busy: no test fails because one example took long. The same examples each time, so that a
# red test is red for everybody; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("steady")

Install = Callable[..., Path]


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin distribution into a folder on ``sys.path``, as pip leaves it: modules and a ``.dist-info``."""
    site = tmp_path / "plugin-site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def install(name: str, source: str = "", *, module: str = "", entry: str = "", version: str = "1.0") -> Path:
        module = module or name.replace("-", "_")
        path = site / f"{module}.py"
        if source:
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        target = entry or f"{name} = {module}"
        (info / "entry_points.txt").write_text(f"[ortforge]\n{target}\n", encoding="utf-8")
        importlib.invalidate_caches()
        return path

    yield install
    for added in set(sys.modules) - before:
        if (getattr(sys.modules[added], "__file__", None) or "").startswith(str(site)):
            del sys.modules[added]


@pytest.fixture
def linux_cpu() -> Device:
    """A plain Linux server without accelerators."""
    return Device(
        name="here",
        system="linux",
        machine="x86_64",
        cpu_model="AMD EPYC 9655",
        cpu_flags=frozenset({"avx2", "avx512f"}),
        cores=2,
        quota=2.0,
        memory=8 << 30,
    )
