"""What an audit is asked and what it answers; and what it knows of the wheel in between."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from ortforge.build.package.archive import Wheel, WheelName
from ortforge.build.package.elf import ElfFacts, read_elf
from ortforge.build.package.platforms import Platform, strictest
from ortforge.errors import BuildError

__all__ = ["CODES", "Expectation", "Finding", "WheelFacts", "gather", "matches"]

Severity = Literal["error", "warning", "note"]

CODES: Final[Mapping[str, str]] = {
    "damaged-library": "a library begins like one and cannot be read",
    "duplicate-library": "one library lies there several times, or two share a soname",
    "executable-stack": "a library asks for an executable stack, which glibc 2.41 refuses",
    "glibc-too-new": "a library needs a newer glibc, libstdc++ or libgcc than the tag promises",
    "large-wheel": "package indexes refuse files of this size by default",
    "missing-ep": "an execution provider that was asked for is in no library",
    "missing-library": "a library that has to be there is not",
    "needs-glibc": "the oldest glibc that the wheel runs on, where its tag does not say",
    "private-symbol": "a library uses symbols that glibc keeps to itself",
    "record-mismatch": "RECORD and the files differ",
    "rpath-outside": "a library looks for others in a folder that is not the wheel's",
    "several-cores": "ONNX Runtime's core is in the wheel more than once",
    "telemetry": "telemetry is compiled in",
    "unexpected-library": "a library that must not be there is",
    "unreadable-wheel": "the file is no wheel, or truncated",
    "unresolved-needed": "a library needs another that nothing provides",
    "unversioned-symbol": "a library needs a symbol without saying from where, and nothing in the wheel has it",
    "wrong-name": "file name, folder and metadata differ in name or version",
    "wrong-tag": "tag, interpreter, extension modules and machine code do not fit together",
}
"""Every code of a finding, and what it says. Codes are stable: scripts may rely on them."""

_TELEMETRY: Final = (b"OneCollector/1.0", b"14OneDsTelemetryE")
"""The collector's address, and the type that sends to it. ORT 1.21.1's and 1.24.1's wheels hold neither, 1.32.0's both;
the names ``enable_telemetry_events`` and ``onnxruntime::Telemetry`` are in all of them and prove nothing."""

_CORE: Final = b"N11onnxruntime16InferenceSessionE"
"""The type name of ORT's session: in every library that holds the core."""

_EP_TYPES: Final = {
    "DmlExecutionProvider": "N3Dml17ExecutionProviderE",
    "NvTensorRTRTXExecutionProvider": "19NvExecutionProviderE",
}
"""EPs whose C++ type is not called as ORT's Python interface names them."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a wheel has to be like.

    :param must_hold: patterns of paths or file names, each of which some file has to match;
        :param must_not_hold: and which none may. :param external_libraries: patterns of sonames that may be needed
        though the wheel lacks them. :param python: ``cp313`` or ``3.13``, ``""`` for any. :param machine: ``x86_64``,
        ``""`` for any. :param eps: as ORT names them (``DnnlExecutionProvider``). :param max_glibc: the wheel has to
        run on this version (``2.36``), whatever its tag promises; ``""`` for no such limit.
    """

    must_hold: tuple[str, ...] = ()
    must_not_hold: tuple[str, ...] = ()
    external_libraries: tuple[str, ...] = ()
    python: str = ""
    machine: str = ""
    eps: tuple[str, ...] = ()
    telemetry_allowed: bool = False
    max_glibc: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an audit has to say.

    :param code: one of :data:`CODES`. :param what: happened, :param why: it matters, :param todo: about it.
    :param path: the file in the wheel that it is about, ``""`` for the wheel itself.
    """

    severity: Severity
    code: str
    what: str
    why: str
    todo: str
    path: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """What the rules look at.

    :param digests: path to SHA-256 and size of every file. :param wheel_tags: as ``WHEEL`` lists them.
    :param platform: what its platform tag promises, ``None`` for a tag that is not Linux's.
    :param damaged: path of every library that cannot be read, and why.
    """

    name: WheelName
    dist_info: str
    digests: Mapping[str, tuple[str, int]]
    record: Mapping[str, tuple[str, str]]
    wheel_tags: tuple[str, ...]
    purelib: bool
    distribution: str
    version: str
    size: int
    platform: Platform | None
    libraries: tuple[ElfFacts, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def telemetry(self) -> tuple[str, ...]:
        """The libraries that hold the telemetry client."""
        return tuple(library.path for library in self.libraries if library.marks & set(_TELEMETRY))

    @property
    def cores(self) -> tuple[str, ...]:
        """The libraries that hold ORT's core."""
        return tuple(library.path for library in self.libraries if _CORE in library.marks)

    def holds_ep(self, ep: str) -> bool:
        """Whether a library holds an EP's code: its type's name. The EP's own name proves nothing, ORT's core lists
        the names of all EPs, built or not.
        """
        return any(_ep_mark(ep) in library.marks for library in self.libraries)


def matches(pattern: str, path: str) -> bool:
    """Whether a path in a wheel, or its file name, matches a pattern."""
    return fnmatchcase(path, pattern) or fnmatchcase(path.rpartition("/")[2], pattern)


def gather(wheel: Wheel, expectation: Expectation) -> WheelFacts:
    """Read all of a wheel, one file at a time.

    :raises BuildError: it is damaged. :raises EnvironmentLacksError: what reads libraries is not installed.
    """
    marks = (*_TELEMETRY, _CORE, *(_ep_mark(ep) for ep in expectation.eps))
    digests: dict[str, tuple[str, int]] = {}
    libraries: list[ElfFacts] = []
    damaged: dict[str, str] = {}
    for name in wheel.names:
        with wheel.open(name) as file:
            begins_like_one = file.read(4) == b"\x7fELF"
        if not begins_like_one:
            digests[name] = wheel.digest(name)
            continue
        data = wheel.read(name)
        digests[name] = (hashlib.sha256(data).hexdigest(), len(data))
        try:
            found = read_elf(name, data, marks)
        except BuildError as error:
            damaged[name] = error.what
        else:
            libraries += [found] if found else []
    metadata, headers = wheel.headers("METADATA"), wheel.headers("WHEEL")
    return WheelFacts(
        name=wheel.name,
        dist_info=wheel.dist_info,
        digests=digests,
        record=wheel.record(),
        wheel_tags=tuple(sorted(str(tag) for tag in headers.get_all("Tag", []))),
        purelib=str(headers.get("Root-Is-Purelib", "")).lower() == "true",
        distribution=str(metadata.get("Name", "")),
        version=str(metadata.get("Version", "")),
        size=wheel.path.stat().st_size,
        platform=strictest(wheel.name.platform.split(".")),
        libraries=tuple(libraries),
        damaged=damaged,
    )


def _ep_mark(ep: str) -> bytes:
    """Return the end of an EP's mangled type name: ``21DnnlExecutionProviderE``, in whatever namespace it lies."""
    return _EP_TYPES.get(ep, f"{len(ep)}{ep}E").encode()
