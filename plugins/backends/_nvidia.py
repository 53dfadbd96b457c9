"""Which of NVIDIA's libraries a build of ONNX Runtime may ask for, by version: they are never part of the wheel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ortforge.api import BuildContext, BuildContribution, ConfigurationError, Device

from ._building import CUSTOM, library, release
from ._needs import gpus_of

PROVIDERS = ("libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so")

NOT_IN_THE_WHEEL = ("libcu[bdfr]*.so*", "libnvrtc*.so*", "libnvJitLink*.so*", "libnvinfer*.so*", "libnvonnxparser*.so*")
"""cuBLAS, cuDNN, CUDA's runtime, cuFFT, cuRAND and TensorRT: gigabytes, and their licence is NVIDIA's."""

_CUDA = {
    11: ("libcudart.so.11.0", "libcublas.so.11", "libcublasLt.so.11", "libcufft.so.10", "libnvrtc.so.11.2"),
    12: ("libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12", "libcufft.so.11", "libnvrtc.so.12"),
    13: ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcufft.so.12", "libnvrtc.so.13"),
}
"""Sonames by CUDA's major version, as each toolkit has them."""


_GRAPHS = ("enable_cuda_graph", "trt_cuda_graph_enable")


def objection(options: Mapping[str, str], session: Mapping[str, Any], device: Device) -> str:
    """Refuse provider options that an EP on NVIDIA's GPUs cannot follow, as far as that is known before anything runs.

    ONNX Runtime captures a CUDA graph of unbound tensors too, and then replays it on memory that holds something else.
    """
    graphs = [name for name in _GRAPHS if str(options.get(name, "")).lower() in ("1", "true")]
    if graphs and session.get("io_binding") is False:
        return (
            f"{graphs[0]} replays fixed addresses, so inputs and outputs must be bound: remove io_binding = false from "
            "its session"
        )
    gpus, wanted = len(gpus_of(device, "nvidia")), str(options.get("device_id", "0"))
    if not wanted.isdigit():
        return f'device_id must be the number of a GPU, from "0" on, and is "{wanted}"'
    if int(wanted) >= gpus:
        return f'device_id = "{wanted}" asks for GPU number {int(wanted) + 1}, and this device has {gpus} of NVIDIA\'s'
    return ""


def cuda_majors(version: str) -> tuple[int, ...]:
    """Return the CUDA major versions that an ORT version is built with.

    Source: the tables of ORT's documentation on the CUDA EP (1.7 to 1.22), and the published wheels from 1.23 on.
    """
    number = release(version)
    if number < (1, 17, 0):
        return (11,)
    if number < (1, 22, 0):
        return (11, 12)
    return (12,) if number < (1, 23, 0) else (12, 13)


def libraries(version: str) -> tuple[str, ...]:
    """Return the sonames that the CUDA EP may need: CUDA's, and cuDNN's (9 since ORT 1.18.1, 8 with CUDA 11)."""
    majors = cuda_majors(version)
    sonames = [soname for major in majors for soname in _CUDA[major]]
    sonames += [f"libnvJitLink.so.{major}" for major in majors if major > 11]
    newest = release(version) >= (1, 18, 1)
    if newest:
        sonames.append("libcudnn.so.9")
    if not newest or 11 in majors:
        sonames.append("libcudnn.so.8")
    return (*sonames, "libcurand.so.10", "libcuda.so.1")


def tensorrt_libraries(version: str) -> tuple[str, ...]:
    """Return the sonames that the TensorRT EP may need, as the table of ORT's documentation on it says."""
    number = release(version)
    major = 10 if number >= (1, 18, 0) else 8 if number >= (1, 9, 0) else 7
    return tuple(f"{name}.so.{major}" for name in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"))


def _on_debian(context: BuildContext, image: str) -> bool:
    """Tell whether the target is built in this image of ortforge's, made on plain Debian."""
    return context.image == image and context.base.rpartition("/")[2].partition(":")[0] == "debian"


def need_tensorrt(context: BuildContext, ep: str) -> None:
    """Refuse a base that is known to have no TensorRT: it cannot be installed from where images take their packages.

    :raises ConfigurationError: the base is plain Debian.
    """
    if _on_debian(context, "tensorrt"):
        raise ConfigurationError(
            f"{ep} is built against TensorRT, which the base {context.base} does not have and the image cannot "
            "install: neither Debian nor PyPI has its headers (NvInfer.h, NvOnnxParser.h) and libraries "
            "(libnvinfer.so, libnvinfer_plugin.so, libnvonnxparser.so).",
            todo="Leave base out for NVIDIA's image, which has them, or name one that has CUDA, cuDNN, libnvinfer-dev, "
            "libnvinfer-plugin-dev and libnvonnxparsers-dev of NVIDIA's repository.",
        )


def cuda_part(context: BuildContext, ep: str) -> BuildContribution:
    """Return what every EP on NVIDIA's GPUs adds: the CUDA EP, which TensorRT's cannot do without.

    The homes are those of ortforge's images; with somebody's own Dockerfile they are the target's to give.

    :raises ConfigurationError: dependencies are the system's, and the image has no CUTLASS and no front end of cuDNN.
    """
    own = any(sign in context.image for sign in CUSTOM)
    if context.dependencies == "system" and not own and not _on_debian(context, "cuda"):
        on = context.base or "NVIDIA's own base"
        debian = 'base = "debian:trixie-slim" (on Debian it brings them), ' if context.image == "cuda" else ""
        raise ConfigurationError(
            f"{ep} cannot be built with the system's packages: the image {context.image} on {on} has neither CUTLASS "
            "nor cuDNN's front end.",
            todo=f'Write {debian}dependencies = "download", or "vendored" (see \'ortforge vendor\'), into the target.',
        )
    homes = {} if own else {"cuda_home": "/usr/local/cuda", "cudnn_home": "/usr"}
    return BuildContribution(
        flags={"use_cuda": True, **homes},
        must_hold=tuple(library(context, name) for name in PROVIDERS),
        must_not_hold=NOT_IN_THE_WHEEL,
        external_libraries=libraries(context.version),
    )
