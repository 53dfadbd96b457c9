"""Set up and pass the tests: ``python3 tests/all.py``. Needs Python 3.11 or newer and a package index.

Makes an environment of its own in ``.venv-tests``, installs ortforge there in editable mode with what the
tests need, and runs linters, type checker, architecture contracts, unit tests, planted faults, Docker tests and the
acceptance tests in their small form. ``--unit`` stops after the planted faults. With ``CI=true`` no Docker test may be
skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-tests"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


def run(title: str, *argv: str) -> None:
    """Run one stage in the test environment; end at the first that fails."""
    print(f"== {title}", flush=True)
    started = time.monotonic()
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    code = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode
    print(
        f"== {title}: {'passed' if code == 0 else f'failed (exit {code})'} in {time.monotonic() - started:.0f} s",
        flush=True,
    )
    if code:
        sys.exit(code)


def browser() -> None:
    """Install a browser for the report's tests where Debian's packages can be had."""
    if shutil.which("chromium") or not shutil.which("apt-get") or os.name != "posix" or os.geteuid() != 0:
        return
    packages = ["chromium", "chromium-driver"]
    subprocess.run(["apt-get", "update", "-qq"], check=False)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        check=False,
        stdout=subprocess.DEVNULL,
    )


def main() -> None:
    """Set up, then run every stage."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this may have an older one
        sys.exit(f"the tests need Python 3.11 or newer; this is {sys.version.split()[0]}")
    if not (BIN / "python").exists():
        venv.create(ENVIRONMENT, with_pip=True)
    python = str(BIN / "python")
    run("install uv", python, "-m", "pip", "install", "--quiet", "uv>=0.9")
    run(
        "install ortforge",
        python,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "-e",
        ".",
        "--group",
        "dev",
    )
    browser()
    run("ruff", "ruff", "check", ".")
    run("ruff format", "ruff", "format", "--check", ".")
    run("mypy", "mypy")
    run("import-linter", "lint-imports")
    run("unit tests", "pytest", "tests/unit", "-q")
    run("planted faults", "pytest", "tests/faults", "-q")
    if "--unit" not in sys.argv:
        # Where no container engine answers, this installs and starts one if it may; the tests say what they miss.
        run("container engine", python, "tests/docker/engine.py")
        run("docker tests", "pytest", "tests/docker", "-q", "--timeout=1800")
        run("acceptance tests", "pytest", "tests/acceptance", "-q", "--timeout=1200")


if __name__ == "__main__":
    main()
