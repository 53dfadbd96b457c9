"""Understands what uv says when it fails: pure functions from its text to an error that tells a user what to do.

Addresses of package indexes are taken out: a mirror's address can hold credentials.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from ortforge.errors import ProvisionError, UnfitError, nearest

__all__ = ["ORT_DISTRIBUTIONS", "check_requirement", "clean", "explain", "is_network_error", "wheels_exist_for"]

ORT_DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-azure",
    "onnxruntime-cann",
    "onnxruntime-coreml",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-migraphx",
    "onnxruntime-noopenmp",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
    "onnxruntime-vitisai",
    "ort-nightly",
    "ort-nightly-directml",
    "ort-nightly-gpu",
)
"""Distributions that install the import package ``onnxruntime``, so that only one of them fits in an environment."""

_OTHERS: Final = (
    "onnx",
    "onnxruntime-qnn",
    "onnxruntime-ep-openvino",
    "onnxruntime-ep-webgpu",
    "numpy",
    "scikit-image",
)


def clean(text: str) -> str:
    """Return what uv said as one line a cause, without warnings, colours, and addresses of indexes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"(?<!file://)\bhttps?://\S+", "the package index", text)
    lines = []
    skipping = False
    for raw in text.splitlines():
        line = raw.strip()
        if raw[:1].strip():
            skipping = line.startswith("warning:")
        if line and not skipping:
            lines.append(re.sub(r"^(error|cause|hint): ", "", line))
    return "\n".join(lines)


def wheels_exist_for(text: str) -> tuple[str, ...]:
    """Return the Python versions that uv says there are wheels for: ``("3.11", "3.12")``, oldest first."""
    match = re.search(r"only found wheels for .* with the following Python [\w ]*tags?: (.+)$", text, re.MULTILINE)
    tags = re.findall(r"`cp3(\d+)m?u?`", match[1]) if match else []
    return tuple(f"3.{minor}" for minor in sorted({int(tag) for tag in tags}))


def _span(versions: Sequence[str]) -> str:
    minors = [int(version.partition(".")[2]) for version in versions]
    if len(minors) > 2 and minors == list(range(minors[0], minors[-1] + 1)):
        return f"{versions[0]}–{versions[-1]}"  # noqa: RUF001  (a range of versions)
    return " and ".join(versions) if len(versions) < 3 else ", ".join(versions)


def explain(text: str, *, wanted: Sequence[str], python: str, near: Sequence[str] = ()) -> ProvisionError:
    """Turn what uv said into an error that says what happened, what was probably meant, and what to do.

    :param wanted: the requirements, as the user wrote them. :param python: version asked for or tried.
    :param near: versions nearest to a pinned one that does not exist.
    """
    asked = ", ".join(wanted)
    for understand in (_explain_surroundings, _explain_name, _explain_tags):
        error = understand(text, asked, python, near)
        if error is not None:
            return error
    if "unsatisfiable" in text or "No solution found" in text:
        reason = " ".join(line for line in text.splitlines() if not line.startswith("No solution found"))
        return ProvisionError(
            f"The requirements {asked} cannot be had together.", meant=reason, todo="Relax or drop one of them."
        )
    return ProvisionError(f"The environment of {asked} could not be made.", meant=text, todo="Try `ortforge doctor`.")


def _explain_surroundings(text: str, asked: str, python: str, near: Sequence[str]) -> ProvisionError | None:
    """Recognize trouble of the machine: a full disk, no network, a damaged or unreadable wheel."""
    low = text.lower()
    if "no space left" in low or "os error 28" in low or "disk quota" in low or "os error 122" in low:
        return ProvisionError(
            f"The disk is full: the environment of {asked} could not be made.",
            todo="Free some space (`ortforge cache show` tells what is kept, `uv cache prune` cleans uv's); run again.",
        )
    if "hash mismatch" in low:
        package = re.search(r"Hash mismatch for `(.+?)`", text)
        return ProvisionError(
            f"The download of {package[1] if package else asked} is not what its sha256 says.",
            meant="It was cut short, or changed on the way.",
            todo="Run again; if it stays, `uv cache clean` and check the index or mirror in use.",
        )
    if _is_network(low):
        return ProvisionError(
            f"There is no network, and the package cache does not hold {asked}.",
            meant=text.splitlines()[-1],
            todo='Connect (HTTPS_PROXY is honoured), or give files: a target with from = "wheel".',
        )
    if "failed to read" in low or "failed to extract" in low or "invalid zip" in low or "central directory" in low:
        name = re.search(r"([\w.+-]+\.whl)", text)
        return ProvisionError(
            f"{name[1] if name else 'A wheel of ' + asked} is damaged: it cannot be unpacked.",
            meant="It was probably cut short while it was copied or built.",
            todo="Copy or build it again, or clean uv's cache: uv cache clean",
        )
    if "permission denied" in low or "read-only file system" in low:
        return ProvisionError(
            f"The environment of {asked} could not be written.",
            meant=text.splitlines()[-1],
            todo="Give ortforge a folder it may write: --store DIR (and UV_CACHE_DIR for uv's cache).",
        )
    return None


def _is_network(low: str) -> bool:
    signs = ("failed to fetch", "network was disabled", "error sending request", "dns error", "network connectivity",
             "connection refused", "timed out", "failed to lookup address", "connection reset")  # fmt: skip
    return any(sign in low for sign in signs)


def is_network_error(text: str) -> bool:
    """Say whether uv failed for lack of a network, so that trying with its cache alone makes sense."""
    return _is_network(text.lower())


def _explain_name(text: str, asked: str, python: str, near: Sequence[str]) -> ProvisionError | None:
    """Recognize a distribution or a version that does not exist."""
    missing = re.search(r"Because (\S+) was not found in the package registry", text)
    if missing:
        close = nearest(missing[1], (*ORT_DISTRIBUTIONS, *_OTHERS))
        return ProvisionError(
            f"There is no package called {missing[1]}.",
            meant=f"Perhaps {close} was meant." if close and close != missing[1] else "",
            todo="Correct `requires` in matrix.toml.",
        )
    version = re.search(r"there is no version of ([\w.-]+?)(?:\[.*?\])?==([^\s,]+)", text)
    if version:
        return ProvisionError(
            f"{version[1]} has no version {version[2]}.",
            meant=f"The nearest: {_in_order(near)}." if near else "",
            todo="Correct `requires` in matrix.toml.",
        )
    only = re.search(r"only ([\w.-]+?)(<=|<|>=|>|==)(\S+) is available and you require (\S+?),? ", text)
    if only:
        return ProvisionError(
            f"No version satisfies {only[4].rstrip(',')}.",
            meant=f"There is {only[1]} {only[2]} {only[3]}.",
            todo="Correct `requires` in matrix.toml.",
        )
    return None


def _in_order(versions: Sequence[str]) -> str:
    try:
        return " and ".join(sorted(versions, key=Version))
    except InvalidVersion:
        return " and ".join(versions)


def _explain_tags(text: str, asked: str, python: str, near: Sequence[str]) -> ProvisionError | None:
    """Recognize that there are wheels, but none for this Python or platform."""
    pythons = wheels_exist_for(text)
    if pythons:
        named = re.search(r"only found wheels for `(.+?)` \(v(.+?)\)", text)
        what = f"{named[1]} {named[2]}" if named else asked
        return UnfitError(
            f"{what} has wheels for Python {_span(pythons)}; you asked for {python}.",
            todo=f'Give the target python = "{pythons[-1]}", or another version of the package.',
            pythons=pythons,
        )
    platform = re.search(r"Wheels are available for `(.+?)` \(v(.+?)\) on the following platforms?: (.+)", text)
    if platform:
        return UnfitError(
            f"{platform[1]} {platform[2]} has no wheel for this platform.",
            meant=f"It has wheels for {platform[3].replace('`', '')}.",
            todo="Take another package, or build this one from source.",
        )
    unfit = re.search(r"(\S+?)(?:==(\S+))? has no wheels with a matching (.+?) tag \(e\.g\., `(.+?)`\)", text)
    if unfit:
        version = f" {unfit[2]}" if unfit[2] else ""
        return UnfitError(
            f"{unfit[1]}{version} has no wheel with the {unfit[3]} tag {unfit[4]} (Python {python}).",
            meant="It was made for another Python or another platform.",
            todo="Give the target another `python`, or another wheel.",
        )
    source = re.search(r"Because (?:all versions of )?(\S+) ha(?:s|ve) no usable wheels", text)
    if source:
        return ProvisionError(
            f"{source[1]} has no wheel, and nothing is built from source while an environment is made.",
            todo='Take another version, or build a wheel and give it to a target with from = "wheel".',
        )
    return None


def check_requirement(text: str) -> Requirement:
    """Parse one requirement.

    :raises ProvisionError: it is not one (``onnxruntime=1.32``, an option such as ``-r FILE``).
    """
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        repaired = re.sub(r"(?<![=<>!~])=(?!=)", "==", text)
        raise ProvisionError(
            f"{text!r} is not a requirement.",
            meant=f"Perhaps {repaired} was meant." if repaired != text else str(error).splitlines()[0],
            todo='Write it as NAME==VERSION, for example "onnxruntime==1.32.0".',
        ) from None
