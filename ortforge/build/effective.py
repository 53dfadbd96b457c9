"""Holds what was asked of ORT's build against what the compilers are told: CMake drops wishes without a word.

The compile commands are the measure. CMake's cache is not: it goes on saying ON for an option that a condition of ORT's
own turned off (ORT 25213). Pure: texts in, differences out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from ortforge.errors import nearest

__all__ = ["Difference", "differences"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that was asked for and is not in force.

    :param what: the flag or definition. :param asked: its value as it was asked for. :param found: what is in force.
    :param why: the reason, as far as it is known, and what to do instead; a sentence or two.
    """

    what: str
    asked: str
    found: str
    why: str


@dataclass(frozen=True, slots=True)
class _Sign:
    """How a wish shows in the compile commands.

    :param kind: a preprocessor definition, its absence, a compiler option, or a file that is compiled.
    :param text: the definition's name, the option's beginning, or a part of the file's path.
    """

    kind: Literal["definition", "no definition", "option", "file"]
    text: str

    def __str__(self) -> str:
        return {
            "definition": f"-D{self.text} in the compile commands",
            "no definition": f"compile commands without -D{self.text}",
            "option": f"{self.text} in the compile commands",
            "file": f"compiled files below {self.text}",
        }[self.kind]


def _defined(**names: str) -> dict[str, _Sign]:
    return {flag: _Sign("definition", name) for flag, name in names.items()}


def _provider(folder: str) -> _Sign:
    # Not its definition: since 1.21 an interface to an EP that is not built has the same one.
    return _Sign("file", f"/core/providers/{folder}/")


_PROVIDERS: Final = frozenset(
    {"acl", "armnn", "azure", "cann", "coreml", "cuda", "dml", "dnnl", "migraphx", "ngraph", "nnapi", "nuphar"}
    | {"openvino", "qnn", "rknpu", "rocm", "snpe", "tensorrt", "vitisai", "vsinpu", "webgpu", "webnn", "xnnpack"}
)
"""EPs whose flag is ``use_NAME`` and whose source lies in a folder of that name."""

_SIGNS: Final[Mapping[str, _Sign]] = {
    **{f"use_{name}": _provider(name) for name in _PROVIDERS},
    "use_jsep": _provider("js"),
    **_defined(
        use_jemalloc="USE_JEMALLOC",
        use_mimalloc="USE_MIMALLOC",
        use_mklml="USE_MKLML",
        use_lock_free_queue="USE_LOCK_FREE_QUEUE",
        disable_contrib_ops="DISABLE_CONTRIB_OPS",
        disable_exceptions="ORT_NO_EXCEPTIONS",
        disable_ml_ops="DISABLE_ML_OPS",
        enable_cuda_minimal_build="USE_CUDA_MINIMAL",
        enable_cuda_nhwc_ops="ENABLE_CUDA_NHWC_OPS",
        enable_cuda_profiling="ENABLE_CUDA_PROFILING",
        enable_memory_profile="ORT_MEMORY_PROFILE",
        enable_nvtx_profile="ENABLE_NVTX_PROFILE",
        enable_training="ENABLE_TRAINING",
        enable_training_apis="ENABLE_TRAINING_APIS",
        enable_training_ops="ENABLE_TRAINING_OPS",
        include_ops_by_config="REDUCED_OPS_BUILD",
        # Options of CMake alone, which ORT turns off for a CUDA that is too old.
        use_flash_attention="USE_FLASH_ATTENTION",
        use_lean_attention="USE_LEAN_ATTENTION",
        use_memory_efficient_attention="USE_MEMORY_EFFICIENT_ATTENTION",
    ),
    "disable_cuda_nhwc_ops": _Sign("no definition", "ENABLE_CUDA_NHWC_OPS"),
    "enable_cuda_line_info": _Sign("option", "--generate-line-info"),
    "build_wheel": _Sign("file", "/onnxruntime_pybind_state.cc"),
    "enable_pybind": _Sign("file", "/onnxruntime_pybind_state.cc"),
    "code_coverage": _Sign("option", "--coverage"),
    "disable_rtti": _Sign("option", "-fno-rtti"),
    "enable_address_sanitizer": _Sign("option", "-fsanitize=address"),
    "enable_lto": _Sign("option", "-flto"),
    "use_full_protobuf": _Sign("no definition", "ONNX_USE_LITE_PROTO"),
    "use_openmp": _Sign("option", "-fopenmp"),
}
"""By flag of build.py, or by what follows ``onnxruntime_`` in an option of CMake. Read in
cmake/CMakeLists.txt and cmake/adjust_global_compile_flags.cmake of ORT."""

_SIGNS_OF_VALUES: Final[Mapping[str, Mapping[str, _Sign]]] = {
    "disable_types": {
        "float8": _Sign("definition", "DISABLE_FLOAT8_TYPES"),
        "optional": _Sign("definition", "DISABLE_OPTIONAL_TYPE"),
        "sparsetensor": _Sign("definition", "DISABLE_SPARSE_TENSORS"),
    },
    "minimal_build": {
        "": _Sign("definition", "ORT_MINIMAL_BUILD"),
        "on": _Sign("definition", "ORT_MINIMAL_BUILD"),
        "custom_ops": _Sign("definition", "ORT_MINIMAL_BUILD_CUSTOM_OPS"),
        "extended": _Sign("definition", "ORT_EXTENDED_MINIMAL_BUILD"),
    },
}
"""By flag and value, where each value shows in its own way."""

_WHY: Final[Mapping[str, str]] = {
    "use_mimalloc": (
        "Since 1.14 ORT's CMake allows mimalloc on Windows only (a cmake_dependent_option) and turns it off elsewhere, "
        'while its cache still says ON (ORT 25213). The target can say allocator = "mimalloc" instead.'
    ),
    "enable_lto": "The compiler refused link-time optimization in CMake's test of it, or the build type rules it out.",
    "enable_nvtx_profile": "It is for builds with CUDA.",
}

_TRUE: Final = frozenset({"1", "on", "true", "y", "yes"})
_FALSE: Final = frozenset({"", "0", "off", "false", "n", "no"})
_ENTRY: Final = re.compile(r"^([A-Za-z_][\w.+-]*):([A-Z]+)=(.*)$", re.MULTILINE)
_DEFINITION: Final = re.compile(r"(?<=[\s\"])-D\s*([A-Za-z_]\w*)")
_DECLARED: Final = re.compile(r"onnxruntime_(USE|ENABLE|DISABLE)_\w+")
"""Options that ORT declares when it has them; others, such as paths, it reads without declaring them."""

_OPTION: Final = "onnxruntime_"
_COMPILER_FLAGS: Final = re.compile(r"CMAKE_(C|CXX|CUDA)_FLAGS(_RELEASE)?")
_LANGUAGES: Final = {".cc": "CXX", ".cpp": "CXX", ".cxx": "CXX", ".cu": "CUDA"}
_GPU: Final = re.compile(r"(\d+[a-z]?)(-real|-virtual)?")
"""One of CMAKE_CUDA_ARCHITECTURES: ``80``, ``90a-real``. Others, such as ``native``, CMake makes up its own mind on."""


@dataclass(slots=True)
class _Commands:
    """What the compile commands of ORT's own files say; those of its dependencies are left out."""

    files: list[str] = field(default_factory=list)
    definitions: set[str] = field(default_factory=set)
    options: dict[str, set[str]] = field(default_factory=lambda: {"C": set(), "CXX": set(), "CUDA": set()})

    @classmethod
    def read(cls, entries: Iterable[Mapping[str, Any]]) -> _Commands:
        """Read entries as CMake writes them: a ``command``, or a list of ``arguments``."""
        read = cls()
        for entry in entries:
            file = str(entry["file"])
            if "/_deps/" in file:
                continue
            command = str(entry["command"]) if "command" in entry else " ".join(entry["arguments"])
            read.files.append(file)
            read.definitions.update(_DEFINITION.findall(command))
            language = _LANGUAGES.get(PurePosixPath(file).suffix, "C")
            read.options[language].update(bare for word in command.split() if (bare := word.strip('"')).startswith("-"))
        return read

    def shows(self, sign: _Sign) -> bool:
        if sign.kind == "definition":
            return sign.text in self.definitions
        if sign.kind == "no definition":
            return sign.text not in self.definitions
        if sign.kind == "option":
            return any(word.startswith(sign.text) for words in self.options.values() for word in words)
        return any(sign.text in file for file in self.files)


@dataclass(frozen=True, slots=True)
class _Cached:
    kind: str
    value: str


def differences(
    flags: Mapping[str, Any], defines: Mapping[str, str], compile_commands: Sequence[Mapping[str, Any]], cache: str
) -> list[Difference]:
    """Return what was asked for and is not in force, in the order of asking.

    Wishes that leave no trace in compile commands (job counts, paths, how the wheel is named) are not judged.

    :param flags: build.py's, by name without dashes: ``True`` for a switch, a tuple for several values.
    :param defines: CMake definitions. :param compile_commands: compile_commands.json, read. :param cache: the text of
        CMakeCache.txt; it says why, and what a definition became.
    """
    commands = _Commands.read(compile_commands)
    cached = {name: _Cached(kind, value) for name, kind, value in _ENTRY.findall(cache)}
    found: list[Difference] = []
    for name, value in flags.items():
        for asked, sign in _signs(name, value):
            if not commands.shows(sign):
                found.append(Difference(f"--{name}", asked, f"no {sign}", _why(name, cached)))
    for name, text in defines.items():
        found += _of_define(name, text, commands, cached)
    return found


def _signs(name: str, value: Any) -> list[tuple[str, _Sign]]:
    """Return how a flag shows, with the value that each sign is of."""
    if value is False or value is None:
        return []
    asked = "on" if value is True else " ".join(value) if isinstance(value, tuple | list) else str(value)
    if name in _SIGNS:
        return [(asked, _SIGNS[name])]
    by_value = _SIGNS_OF_VALUES.get(name, {})
    values = asked.split() or [""]
    return [(one, by_value[one]) for one in values if one in by_value]


def _why(flag: str, cached: Mapping[str, _Cached]) -> str:
    if flag in _WHY:
        return _WHY[flag]
    option = f"{_OPTION}{flag.upper()}"
    entry = cached.get(option)
    if entry is None:
        return "ORT's build.py took the flag and told CMake nothing of it."
    if entry.kind == "INTERNAL" and entry.value.lower() in _TRUE:
        return f"A condition in ORT's CMake files keeps {option} off, while CMake's cache still says {entry.value}."
    if entry.value.lower() in _FALSE:
        return f"ORT's build.py or CMake files set {option} to {entry.value or 'nothing'}."
    return f"CMake's cache says {option}={entry.value}, and the compilers are told nothing of it."


def _of_define(name: str, asked: str, commands: _Commands, cached: Mapping[str, _Cached]) -> list[Difference]:
    what = f"-D{name}"
    entry = cached.get(name)
    if entry is None:
        return [Difference(what, asked, "not set", "ORT's CMake files removed it.")]
    if not _same(entry.value, asked):
        return [Difference(what, asked, entry.value, "ORT's build.py or CMake files set it to something else.")]
    if entry.kind == "UNINITIALIZED" and _DECLARED.fullmatch(name):
        # Compared without what all of them begin with, which would make them all alike.
        known = {other.removeprefix(_OPTION): other for other, one in cached.items() if one.kind == "BOOL"}
        close = known.get(nearest(name.removeprefix(_OPTION), known), "")
        perhaps = f" Perhaps {close} was meant." if close else ""
        return [Difference(what, asked, "nothing reads it", f"This version of ORT has no such option.{perhaps}")]
    if name == "CMAKE_CUDA_ARCHITECTURES":
        return _of_gpus(what, asked, commands)
    if languages := _COMPILER_FLAGS.fullmatch(name):
        words = commands.options[languages[1]]
        return [
            Difference(what, word, "no such word in the compile commands", "ORT's CMake files replace these flags.")
            for word in asked.split()
            if word.startswith("-") and word not in words
        ]
    flag = name.removeprefix(_OPTION).lower()
    if asked.lower() in _TRUE and flag in _SIGNS and not commands.shows(_SIGNS[flag]):
        return [Difference(what, asked, f"no {_SIGNS[flag]}", _why(flag, cached))]
    return []


def _of_gpus(what: str, asked: str, commands: _Commands) -> list[Difference]:
    """Say which kinds of GPUs no kernel is compiled for: a wheel without says so on such a GPU alone (ORT 26181)."""
    told = " ".join(commands.options["CUDA"])
    why = "ORT's CMake files set other ones." if told else "No CUDA file is compiled: the target lacks the EP."
    found = []
    for one in asked.split(";"):
        gpu = _GPU.fullmatch(one.strip())
        code = f"{'compute' if gpu[2] == '-virtual' else 'sm'}_{gpu[1]}" if gpu else ""
        # Newer versions make 90a of 90: kernels for the same GPUs, which use all that they have.
        if gpu and not re.search(rf"\b{code}[a-z]?\b", told):
            found.append(Difference(what, gpu[0], f"no {code} in the commands of CUDA files", why))
    return found


def _same(left: str, right: str) -> bool:
    sides = left.lower(), right.lower()
    return left == right or any(all(side in kind for side in sides) for kind in (_TRUE, _FALSE))
