"""Asks uv something, within a time limit."""

from __future__ import annotations

import re
import subprocess

from ortforge.api import CheckContext


def ask(context: CheckContext, *arguments: str, given: str = "", limit_s: float = 10.0) -> tuple[int, str]:
    """Run uv and return its exit code and what it printed: standard output, or when it failed what it complained of.

    It runs where provisioning runs it, in the store, because uv reads settings from the folders above. Addresses are
    taken out of complaints: a mirror's can hold credentials.

    :raises TimeoutError: it took longer than the limit.
    """
    assert context.uv is not None
    folder = next(path for path in (context.store, *context.store.parents) if path.is_dir())
    try:
        done = subprocess.run(
            [str(context.uv), *arguments],
            cwd=folder,
            env=dict(context.uv_environ),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"uv did not answer within {limit_s:.0f} s") from None
    if done.returncode == 0:
        return 0, done.stdout.strip()
    return done.returncode, re.sub(r"\bhttps?://\S+", "the package index", done.stderr).strip()
