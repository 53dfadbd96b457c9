"""Images of an engine: built from a Dockerfile, pulled, imported from a root file system, looked at."""

from __future__ import annotations

import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ortforge.container.archives import tar_of_files
from ortforge.container.failures import failures
from ortforge.errors import BuildError, EnvironmentLacksError

__all__ = ["ImageFacts", "build", "import_root", "inspect", "machine_of", "pull"]

_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l"}
"""Architectures as images name them (Go's GOARCH), and as the kernel does."""

_TAIL: Final = 25
_STEP_SHOWN: Final = 100
"""Characters of an instruction that a message shows."""
_STEP: Final = re.compile(r"^Step (\d+/\d+) : (.*)")
_OWN: Final = re.compile(r"^ ---> |^Removing intermediate container |^Removed intermediate container ")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image.

    :param id: "sha256:…". :param machine: that it is for, "x86_64". :param size: bytes. :param digest: in the registry
        that it came from ("name@sha256:…"), or ``""``.
    """

    id: str
    machine: str
    size: int
    digest: str
    labels: Mapping[str, str]


def machine_of(architecture: str) -> str:
    """Return an architecture's name as the kernel has it.

    >>> machine_of("amd64"), machine_of("arm64"), machine_of("riscv64")
    ('x86_64', 'aarch64', 'riscv64')
    """
    return _MACHINES.get(architecture.lower(), architecture)


def inspect(api: Any, reference: str) -> ImageFacts | None:
    """Return what the engine knows of an image, ``None`` where it has none of that name."""
    import docker.errors

    with failures(f"the image {reference} is looked up"):
        try:
            found = api.inspect_image(reference)
        except docker.errors.NotFound:
            return None
    return ImageFacts(
        id=str(found["Id"]),
        machine=machine_of(str(found.get("Architecture", ""))),
        size=int(found.get("Size", 0)),
        digest=str((found.get("RepoDigests") or [""])[0]),
        labels=dict((found.get("Config") or {}).get("Labels") or {}),
    )


def build(
    api: Any,
    files: Mapping[str, bytes],
    *,
    dockerfile: str,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    network: str,
    say: Callable[[str], None],
) -> str:
    """Build an image from a context given as files; ``say`` hears every line as it comes.

    Layers that did not change are the engine's own cache. Nothing is tagged: the id is the name.

    :raises BuildError: an instruction failed; the message has it and its last lines.
    :raises EnvironmentLacksError: the engine went away or its disk is full.
    """
    import docker.errors

    step, tail, image = "", deque[str](maxlen=_TAIL), ""
    with failures("an image is built"):
        try:
            stream = api.build(
                fileobj=io.BytesIO(tar_of_files(files)),
                custom_context=True,
                dockerfile=dockerfile,
                buildargs=dict(arguments),
                labels=dict(labels),
                network_mode=network,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=None,
            )
            for event in stream:
                if "error" in event:
                    raise _failed(str(event["error"]), step, tail)
                image = str((event.get("aux") or {}).get("ID", image))
                for line in _COLOUR.sub("", str(event.get("stream", ""))).splitlines():
                    if found := _STEP.match(line):
                        step = f"{found[1]}: {found[2]}"
                        tail.clear()
                    elif line.strip() and not _OWN.match(line):
                        tail.append(line)
                    if line.strip():
                        say(line)
        except docker.errors.APIError as error:
            if error.is_client_error() or "dockerfile" in str(error.explanation).lower():
                raise _failed(str(error.explanation), step, tail) from error
            raise
    if not image:
        raise BuildError(f"The engine ended the build of an image without giving one, after step {step or '0'}.")
    return image


def pull(api: Any, reference: str, say: Callable[[str], None]) -> str:
    """Fetch an image from its registry; return ``""``, or why it could not be had.

    The client's own time-out is how long the registry may be silent.
    """
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        for event in api.pull(reference, stream=True, decode=True):
            if "error" in event:
                return str(event["error"])
            if status := str(event.get("status", "")):
                say(f"{reference}: {status}")
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        return f"no answer in time ({type(error).__name__})"
    return ""


def import_root(api: Any, archive: Path, tag: str) -> str:
    """Make an image of a root file system (a tar), and name it ``tag``; return its id.

    :raises EnvironmentLacksError: the engine does not take it.
    """
    repository, _, name = tag.rpartition(":")
    with failures(f"{archive.name} becomes the image {tag}"), archive.open("rb") as data:
        said = api.import_image_from_stream(
            _pieces(data), repository=repository or name, tag=name if repository else "latest", changes=['CMD ["bash"]']
        )
    for line in str(said).splitlines():
        event = json.loads(line)
        if "error" in event:
            raise EnvironmentLacksError(f"The engine does not take {archive.name} as an image: {event['error']}")
    found = inspect(api, tag)
    if found is None:
        raise EnvironmentLacksError(f"The engine took {archive.name}, and has no image {tag}.")
    return found.id


def _pieces(data: Any) -> Iterator[bytes]:
    while piece := data.read(1 << 20):
        yield piece


def _failed(error: str, step: str, tail: deque[str]) -> BuildError | EnvironmentLacksError:
    """Return the error for an instruction that failed, with what it printed last."""
    text = "\n".join(tail)
    if "no space left on device" in (error + text).lower():
        return EnvironmentLacksError(
            f"The Docker engine's disk is full: step {step or '1'} of an image could not be written.",
            todo="Free space: 'docker system df' shows what takes it.",
        )
    if "exec format error" in (error + text).lower():
        return BuildError(
            f"The base image is for another architecture than this engine's machine (step {step}).",
            todo="Give the target a `base` for this machine's architecture.",
        )
    if len(step) > _STEP_SHOWN:
        step = f"{step[:_STEP_SHOWN]}…"
    # The instruction is there already, and may be a page long.
    error = re.sub(r"^The command '.*' returned a non-zero code: (\d+)$", r"exit code: \1", error, flags=re.DOTALL)
    what = f"The Dockerfile failed at step {step}" if step else "The Dockerfile cannot be used"
    return BuildError(
        "\n".join([f"{what}: {error}", *tail]),
        meant="The lines above are the last ones that the instruction printed." if tail else "",
        todo="Mend the Dockerfile, its arguments or the network, and run again: finished steps are kept.",
    )
