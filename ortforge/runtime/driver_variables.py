"""Environment variables that select a driver or library, or change how one computes.

Workers inherit the user's environment, so these variables can change a result. Those that are set are part of the key
of every step that runs a model. A backend adds its own names in :attr:`ortforge.api.Backend.variables`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from ortforge.store.hashing import digest_json, sha256_file

__all__ = ["DRIVER_VARIABLES", "driver_variables"]

DRIVER_VARIABLES: Final = (
    # The dynamic loader and the C library: glibc's ld.so(8), mallopt(3), macOS' dyld(1)
    "LD_*",
    "DYLD_*",
    "GLIBC_TUNABLES",
    "MALLOC_*",
    "MIMALLOC_*",
    "TCMALLOC_*",
    # Threads: OpenMP 5.2 section 21, LLVM and GNU runtimes, oneTBB, OpenBLAS
    "OMP_*",
    "KMP_*",
    "GOMP_*",
    "TBB_*",
    "OPENBLAS_*",
    # ONNX Runtime and the libraries of its EPs
    "ORT_*",
    "ONEDNN_*",
    "DNNL_*",
    "MKL_*",
    "OPENVINO*",
    "OV_*",
    "QNN*",
    "ADSP*",
    "MIGRAPHX_*",
    "XNNPACK_*",
    "DAWN_*",
    # Drivers: Vulkan loader, Mesa, OpenCL, Level Zero, CUDA, ROCm
    "VK_*",
    "MESA_*",
    "LIBGL_*",
    "GALLIUM_*",
    "LP_NUM_THREADS",
    "DRI_PRIME",
    "OCL_*",
    "POCL_*",
    "ZE_*",
    "ONEAPI_*",
    "SYCL_*",
    "CUDA_*",
    "CUDNN_*",
    "CUBLAS_*",
    "NVIDIA_*",
    "HIP_*",
    "HSA_*",
    "ROCR_*",
    "GPU_DEVICE_ORDINAL",
)
"""Names, and prefixes that end in ``*``; the documentation of each product is the source."""

_SET_BY_ORTFORGE: Final = frozenset({"ORT_DISABLE_TELEMETRY"})
"""Variables that every worker gets with the same value, whatever the user's environment holds."""

_LARGEST_FILE: Final = 1 << 30
"""Bytes up to which a file that a variable names is part of its value by content."""


def driver_variables(
    environ: Mapping[str, str], more_names: Iterable[str] = (), overridden: Iterable[str] = ()
) -> dict[str, str]:
    """Return the variables that are set, ordered by name.

    A value that names files (``LD_PRELOAD``, ``VK_DRIVER_FILES`` …) is followed by the sha256 of each of them; a
    library path by a digest of the libraries in each of its folders.

    :param more_names: names or prefixes that a backend declares. :param overridden: names that every worker gets from
        the matrix or the backend, so that the inherited value has no effect.
    """
    patterns = (*DRIVER_VARIABLES, *more_names)
    skipped = {*_SET_BY_ORTFORGE, *overridden}
    names = [name for name in sorted(environ) if name not in skipped and _matches(name, patterns)]
    return {name: _with_contents(name, environ[name]) for name in names}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(name.startswith(text[:-1]) if text.endswith("*") else name == text for text in patterns)


def _with_contents(name: str, value: str) -> str:
    digests = []
    for entry in value.replace(" ", os.pathsep).split(os.pathsep):
        path = Path(entry)
        if not path.is_absolute():
            continue
        try:
            status = path.stat()
            if path.is_file() and status.st_size <= _LARGEST_FILE:
                digests.append(_file_digest(entry, status.st_size, status.st_mtime_ns))
            elif path.is_dir() and name.endswith("LIBRARY_PATH"):
                digests.append(_libraries_digest(path))
        except (OSError, ValueError):
            continue
    return " ".join([value, *(f"[{digest}]" for digest in digests)])


def _libraries_digest(folder: Path) -> str:
    """Digest the names, sizes and times of a folder's shared libraries (contents take too long to read)."""
    libraries = sorted(path for path in folder.iterdir() if ".so" in path.name or path.suffix == ".dylib")
    states = [(path, path.stat()) for path in libraries if path.exists()]
    return digest_json([[path.name, status.st_size, status.st_mtime_ns] for path, status in states])


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, modified: int) -> str:
    return sha256_file(Path(path))
