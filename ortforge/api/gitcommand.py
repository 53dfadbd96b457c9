"""Runs git for those that bring sources: no questions asked, no hooks run, and nothing of the user's own configuration.

A repository is somebody else's: what it brings must not run here, and what a user set up for his own work (hooks,
aliases, rewritten addresses) must not change what is built. Proxies are honoured (``https_proxy``), and so is ssh.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ortforge.errors import EnvironmentLacksError, FetchError

__all__ = ["git", "git_address", "git_revision"]

_SETTINGS: Final = {
    "advice.detachedHead": "false",
    "core.autocrlf": "false",
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "gc.auto": "0",
    "http.lowSpeedLimit": "1000",  # bytes per second, for lowSpeedTime seconds: then it counts as dead
    "http.lowSpeedTime": "60",
    "init.defaultBranch": "main",
    "pack.threads": "1",
    "submodule.fetchJobs": "1",
}
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_SCHEMES: Final = ("https", "http", "ssh", "git", "file")
_GONE: Final = re.compile(
    r"could not resolve|couldn't connect|failed to connect|connection (refused|timed out|reset)|network is unreachable"
    r"|no route to host|timed? ?out|could not read from remote|name or service not known|operation too slow"
    r"|proxy|ssl|certificate",
    re.IGNORECASE,
)
_NOT_THERE: Final = re.compile(
    r"repository .* not found|does not appear to be a git repository|could not read username"
    r"|authentication failed|permission denied|does not exist",
    re.IGNORECASE,
)


def git(arguments: Sequence[str], folder: Path, *, seconds: float = 1800.0, local: bool = False) -> str:
    """Run git in a folder and return what it printed.

    :param arguments: after ``git``; no shell reads them. :param seconds: it is ended after that time, with all that it
        started. :param local: submodules may come from this machine's files too (the repository itself always may).
    :raises EnvironmentLacksError: there is no git. :raises FetchError: it failed, or took too long.
    """
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="ortforge-git-", suffix=".config") as configuration:
        # Whoever names a repository of somebody else's on this machine means it; nothing of it is run.
        configuration.write("[safe]\n\tdirectory = *\n")
        configuration.flush()
        return _run(arguments, folder, seconds, local, configuration.name)


def _run(arguments: Sequence[str], folder: Path, seconds: float, local: bool, configuration: str) -> str:
    import signal
    import subprocess

    settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
    if local:
        settings += ["-c", "protocol.file.allow=always"]
    try:
        process = subprocess.Popen(
            ["git", *settings, *arguments],
            cwd=folder,
            env=_environment(os.environ, configuration),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        raise EnvironmentLacksError(
            "git was not found: it brings sources from repositories.",
            todo="Install it (Debian: apt-get install git), or give the source as archive:FILE.",
        ) from None
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise FetchError(
            f"git {arguments[0]} did not end within {seconds:.0f} s.",
            meant="The host does not answer, or the network is slow.",
            todo="See that the address can be reached from here, or give the source as archive:FILE.",
        ) from None
    finally:
        if process.poll() is None:  # also when we are interrupted: git's helpers would go on without it
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise _failed(arguments[0], err)
    return out


def git_address(text: str) -> str:
    """Return the address of a repository as it was given, if it can be one.

    :raises FetchError: it is empty, looks like an option, or names a transport that runs programs (``ext::``).
    """
    scheme = text.partition("://")[0] if "://" in text else ""
    if not text or text.startswith("-") or "::" in text or (scheme and scheme not in _SCHEMES):
        raise FetchError(
            f"{text!r} is not the address of a git repository.",
            todo="Write https://HOST/OWNER/NAME.git, ssh://…, or the path of a repository on this machine.",
        )
    return text


def git_revision(text: str) -> str:
    """Return a tag or commit as it was given, if it can be one.

    :raises FetchError: it is empty, looks like an option, or has characters that git does not allow in names.
    """
    if not _REVISION.fullmatch(text) or ".." in text or text.endswith((".lock", "/", ".")):
        raise FetchError(
            f"{text!r} is neither a tag nor a commit.", todo="Write a tag, e.g. v1.21.0, or 40 hex digits."
        )
    return text


def _environment(environ: Mapping[str, str], configuration: str) -> dict[str, str]:
    """Return the variables that git runs with: the user's, less what git itself would take for orders.

    :param configuration: file that stands in for the user's own; programs that git starts read it, too.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("GIT_") and name != "SSH_ASKPASS"}
    return kept | {
        "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
        "GIT_ASKPASS": "",
        "GIT_CONFIG_GLOBAL": configuration,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=30",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def _failed(verb: str, said: str) -> FetchError:
    """Say why git failed: its own last words are kept, credentials in addresses are not."""
    lines = [line.strip() for line in re.sub(r"://[^/@\s]*@", "://", said).splitlines() if line.strip()]
    text = " ".join(line for line in lines if line.startswith(("fatal:", "error:"))) or " ".join(lines[-3:])
    if "no space left" in said.lower():
        return FetchError(f"The disk is full: git {verb} could not write.", todo="Free some space, and run again.")
    if _NOT_THERE.search(text):
        return FetchError(
            f"git {verb} failed: {text}",
            meant="There is no such repository, or it may not be read without permission.",
            todo="Correct the address.",
        )
    if _GONE.search(text):
        return FetchError(
            f"git {verb} failed: {text}",
            meant="There is probably no network here, or the host's name is wrong.",
            todo="Connect (https_proxy is honoured), or bring the source by other means: archive:FILE",
        )
    return FetchError(f"git {verb} failed: {text or 'without a word'}")
