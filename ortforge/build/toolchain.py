"""Toolchain images: a Dockerfile of ortforge or the user's, on a base that is pulled, or made of Debian's packages.

An image's identity is its id. The Dockerfile's text, the base and the packages are known before any engine is asked, so
a plan knows what it would build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from ortforge.container import Engine, ImageFacts
from ortforge.container.images import machine_of
from ortforge.errors import BuildError, ConfigurationError, EnvironmentLacksError, nearest
from ortforge.store.hashing import digest_bytes, digest_json

__all__ = ["base_of", "build_toolchain", "dockerfile_digest", "ensure_base", "proof_image", "toolchains"]

_SUFFIX: Final = ".Dockerfile"
_PROOF: Final = "proof"
_BASE: Final = re.compile(r"^ARG BASE=(\S+)\s*$", re.MULTILINE)
_FROM: Final = re.compile(r"^FROM\s+(\S+)", re.MULTILINE | re.IGNORECASE)
_CONTEXT: Final = re.compile(r"^(?:COPY|ADD)\s+(?!--from=)(?!.*\bhttps?://).*$", re.MULTILINE | re.IGNORECASE)
_REFERENCE: Final = re.compile(r"[A-Za-z0-9][\w./:@-]*")
_PACKAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:-]*(=[A-Za-z0-9.+:~-]+)?")
"""A package of apt or dnf, perhaps with its version: what goes into a Dockerfile's command line holds nothing else."""
_DEBIAN: Final = re.compile(r"debian:(?P<suite>[a-z]+)(-slim)?")
_LABEL: Final = "ortforge.image"
"""Label of the images made here; its value is the toolchain's name."""


def toolchains() -> tuple[str, ...]:
    """Return the names of ortforge's own toolchain images."""
    found = (path.name.removesuffix(_SUFFIX) for path in _folder().glob(f"*{_SUFFIX}"))
    return tuple(sorted(name for name in found if name != _PROOF))


def dockerfile_digest(image: str, base: Path) -> str:
    """Return the digest of a toolchain's Dockerfile.

    :param image: one of :func:`toolchains`, or the path of a Dockerfile, relative to ``base``.
    :raises ConfigurationError: there is no such toolchain or file, or it copies files, which no build is given.
    """
    return digest_bytes(_text(image, base).encode())


def base_of(image: str, base: Path = Path()) -> str:
    """Return a toolchain's base image unless a target names another one, e.g. ``debian:trixie-slim``.

    :raises ConfigurationError: see :func:`dockerfile_digest`.
    """
    text = _text(image, base)
    found = _BASE.search(text) or _FROM.search(text)
    if found is None:
        raise ConfigurationError(f"The Dockerfile of the image {image} has no FROM.")
    return found[1]


def build_toolchain(
    engine: Engine, parameters: Mapping[str, Any], say: Callable[[str], None], *, base_folder: Path
) -> tuple[str, dict[str, Any]]:
    """Build a toolchain image; what did not change comes from the engine's layer cache.

    :param parameters: ``image``, ``base`` (``""`` for the Dockerfile's own), ``packages`` and ``machine``, as
        :func:`ortforge.plan.building.lay_out` gives them. :param base_folder: where a Dockerfile's path starts.
    :returns: the image's id, and facts: its base and the base's id and digest, size, seconds.
    :raises BuildError: an instruction failed, or the base is for another architecture. :raises EnvironmentLacksError:
        the base can neither be pulled nor made. :raises ConfigurationError: the Dockerfile does not take what is asked.
    """
    started = time.monotonic()
    name = str(parameters["image"])
    text = _text(name, base_folder)
    base = str(parameters.get("base") or "") or base_of(name, base_folder)
    packages = tuple(str(package) for package in parameters.get("packages") or ())
    arguments = _arguments(name, text, str(parameters.get("base") or ""), base, packages)
    found = ensure_base(engine, base, say)
    _check_machine(base, found, str(parameters.get("machine") or ""))
    image = _build(engine, _short(name), text, arguments, say)
    built = engine.image(image)
    return image, {
        "base": base,
        "base_id": found.id,
        "base_digest": found.digest,
        "machine": found.machine,
        "size": built.size if built else 0,
        "seconds": round(time.monotonic() - started, 1),
    }


def proof_image(engine: Engine, base: str, say: Callable[[str], None]) -> str:
    """Return the id of a clean image, made if need be: ``base`` with Python and venv, and nothing that builds.

    :raises BuildError: it cannot be made. :raises EnvironmentLacksError: the base cannot be had.
    """
    ensure_base(engine, base, say)
    text = (_folder() / f"{_PROOF}{_SUFFIX}").read_text(encoding="utf-8")
    return _build(engine, _PROOF, text, {"BASE": base}, say)


def ensure_base(engine: Engine, base: str, say: Callable[[str], None]) -> ImageFacts:
    """Return a base image: the engine's own, else the registry's, else one that is made of Debian's packages.

    :raises EnvironmentLacksError: none of these ways is open; the message says what each lacks.
    """
    if (found := engine.image(base)) is not None:
        return found
    say(f"fetching the base image {base}")
    refused = engine.pull(base, say)
    if not refused and (found := engine.image(base)) is not None:
        return found
    debian = _DEBIAN.fullmatch(base)
    if debian is None:
        raise EnvironmentLacksError(
            f"The base image {base} is not here, and its registry does not give it: {refused}",
            meant="Without a registry, ortforge can make the image debian:trixie-slim, and no other maker's.",
            todo=f"Bring it ('docker load', 'docker pull {base}'), or build on plain Debian: image = \"debian\", or "
            'base = "debian:trixie-slim" where an image takes it.',
        )
    if lacking := _lacking():
        raise EnvironmentLacksError(
            f"The base image {base} is not here, its registry does not give it ({refused}), and it cannot be made: "
            f"{lacking}.",
            todo="apt-get install debootstrap, and run once as root; or bring the image with 'docker load'.",
        )
    _bootstrap(engine, debian["suite"], base, say)
    found = engine.image(base)
    if found is None:
        raise EnvironmentLacksError(f"The base image {base} was made, and the engine does not have it.")
    return found


def _lacking() -> str:
    """Return what is missing for making a Debian base, ``""`` when nothing is."""
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed"
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        return "debootstrap needs root"
    return ""


def _bootstrap(engine: Engine, suite: str, tag: str, say: Callable[[str], None]) -> None:
    say(f"making the base image {tag} from Debian's packages")
    tail: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ortforge-base-") as folder:
        archive = Path(folder) / "root.tar"
        argv = ["sh", str(_folder() / "bootstrap"), suite, str(archive)]
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                tail = [*tail[-14:], line.rstrip()]
                say(line.rstrip())
        if process.returncode or not archive.is_file():
            raise EnvironmentLacksError(
                "\n".join([f"The base image {tag} could not be made (debootstrap, exit {process.returncode}):", *tail]),
                meant="Debian's mirror is out of reach, or debootstrap is too old for this release of Debian.",
                todo="MIRROR=URL names another mirror.",
            )
        engine.import_root(archive, tag)


def _build(engine: Engine, name: str, text: str, arguments: Mapping[str, str], say: Callable[[str], None]) -> str:
    """Build, and give the image a name of its own: the engine's clean-up removes images that have none."""
    image = engine.build_image(
        {"Dockerfile": text.encode()}, dockerfile="Dockerfile", arguments=arguments, labels={_LABEL: name}, say=say
    )
    engine.tag(image, f"ortforge-{name}:{digest_json([text, dict(arguments)])[:12]}")
    return image


def _arguments(name: str, text: str, asked: str, base: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the Dockerfile's arguments.

    :raises ConfigurationError: the Dockerfile has no argument for what is asked, or it holds more than a name.
    """
    if not _REFERENCE.fullmatch(base):
        raise ConfigurationError(f"{base!r} is no name of an image.", meant='One such as "debian:trixie-slim".')
    if odd := [package for package in packages if not _PACKAGE.fullmatch(package)]:
        raise ConfigurationError(f"{odd[0]!r} is no name of a package.", todo="Write names as apt or dnf has them.")
    arguments: dict[str, str] = {}
    if _takes(text, "BASE"):
        arguments["BASE"] = base
    elif asked:
        raise ConfigurationError(
            f"The Dockerfile {name} does not take another base image.", todo="Begin it with: ARG BASE=…, FROM ${BASE}"
        )
    if _takes(text, "PACKAGES"):
        arguments["PACKAGES"] = " ".join(sorted(set(packages)))
    elif packages:
        raise ConfigurationError(
            f"The Dockerfile {name} cannot install what this target needs: {', '.join(sorted(packages))}.",
            todo="Give it the lines: ARG PACKAGES, and one that installs ${PACKAGES}.",
        )
    return arguments


def _takes(text: str, argument: str) -> bool:
    return re.search(rf"^ARG {argument}\b", text, re.MULTILINE) is not None


def _check_machine(base: str, found: ImageFacts, asked: str) -> None:
    """Refuse a base whose programs the asked machine cannot run.

    :raises BuildError: it is an image for another architecture.
    """
    wanted = machine_of(asked.lower())
    if wanted and found.machine and found.machine != wanted:
        raise BuildError(
            f"The base image {base} is for another architecture: {found.machine}, and the target is for {wanted}.",
            meant="It was pulled or loaded for another machine.",
            todo=f"Remove it ('docker image rm {base}') and bring the one for {wanted}, or choose another base.",
        )


def _text(image: str, base: Path) -> str:
    """Return a toolchain's Dockerfile."""
    if not image.endswith("Dockerfile"):
        known = toolchains()
        if image not in known:
            near = nearest(image, known)
            raise ConfigurationError(
                f"There is no toolchain image {image!r}.",
                meant=f"Did you mean {near!r}?" if near else f"There are {', '.join(known)}.",
                todo="Or give the path of a Dockerfile, relative to matrix.toml, whose name ends in 'Dockerfile'.",
            )
        return (_folder() / f"{image}{_SUFFIX}").read_text(encoding="utf-8")
    path = base / image
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(
            f"The Dockerfile {image} cannot be read: {reason}.", meant=f"It was looked for at {path}."
        ) from None
    if copied := _CONTEXT.search(text):
        raise ConfigurationError(
            f"The Dockerfile {image} has {copied[0]!r}: a toolchain is built of its Dockerfile alone.",
            meant="Files beside it could change without anybody noticing.",
            todo="Fetch in a RUN what is needed, and check its digest; or use a base image that has it.",
        )
    return text


def _short(name: str) -> str:
    """Return a toolchain's name as it may stand in an image's."""
    if not name.endswith("Dockerfile"):
        return name
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.removesuffix("Dockerfile").lower()).strip("-") or "own"


def _folder() -> Path:
    return Path(str(files("ortforge.dockerfiles")))
