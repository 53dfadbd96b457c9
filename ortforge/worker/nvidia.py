"""What ONNX Runtime leaves unsaid about NVIDIA's GPUs: which library is missing, and what a session's options mean.

The CUDA EP is listed on every machine that has its wheel. Without its libraries it drops out with a line in the log,
and the CPU does the work.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "CUDA",
    "EPS",
    "absent_gpu",
    "captures",
    "missing_library",
    "preload",
    "refused_capture",
    "remarks",
    "with_remedy",
    "without_time",
]

CUDA = "CUDAExecutionProvider"

_LIBRARIES = {
    CUDA: "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
    "NvTensorRTRTXExecutionProvider": "libonnxruntime_providers_nv_tensorrt_rtx.so",
}
"""The library of ORT's wheel that each of NVIDIA's EPs lies in."""

EPS = frozenset(_LIBRARIES)

_TRUE = frozenset({"1", "true"})


def preload(ort: Any, providers: Sequence[Sequence[Any]]) -> None:
    """Load CUDA and cuDNN out of NVIDIA's Python packages, where the runtime has them (ORT 1.21 and newer).

    Without such packages it is the system that finds them; what cannot be loaded is said in the log.
    """
    load = getattr(ort, "preload_dlls", None)
    if load is not None and any(name in EPS for name, _ in providers):
        load()


def missing_library(ort: Any, ep: str) -> str:
    """Return why the library of an EP cannot be loaded, in the dynamic linker's words, or ``""``."""
    if ep not in _LIBRARIES:
        return ""
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / _LIBRARIES[ep]))
    except OSError as error:
        return with_remedy(str(error))
    return ""


def with_remedy(said: str) -> str:
    """Add to the dynamic linker's words what TensorRT needs: no wheel of ONNX Runtime has it, and one package misleads.

    ``tensorrt-lean`` has ``libnvinfer_lean`` alone: no builder and no parser, both of which ORT's EP needs.
    """
    asked = re.search(r"\blib(?:nvinfer|nvonnxparser)\w*\.so\.(\d+)", said)
    if asked is None:
        return said
    return (
        f"{said}; TensorRT {asked[1]} comes apart from ONNX Runtime: install NVIDIA's tensorrt of that version and "
        "name the folder of its libraries in LD_LIBRARY_PATH. tensorrt-lean will not do: it only runs engines that a "
        "full TensorRT built"
    )


def absent_gpu(error: Exception) -> str:
    """Return which GPU was asked for that CUDA does not see, or ``""`` when the error is about something else."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "no CUDA-capable device is detected" in str(error):
        return "CUDA sees no GPU here" + ("" if visible is None else f': CUDA_VISIBLE_DEVICES = "{visible}" hides them')
    told = re.search(r"Invalid device ID: (\d+), must be between 0 \(inclusive\) and (\d+) \(exclusive\)", str(error))
    if told is None:
        return ""
    why = "" if visible is None else f': CUDA_VISIBLE_DEVICES = "{visible}" numbers those that it leaves from 0 on'
    return f'device_id = "{told[1]}" asks for GPU number {int(told[1]) + 1}, and CUDA sees {told[2]} here{why}'


def captures(providers: Sequence[Sequence[Any]]) -> bool:
    """Whether CUDA graphs were asked for: ``enable_cuda_graph``, or TensorRT's ``trt_cuda_graph_enable``."""
    options = (providers[0][1] or {}) if providers else {}
    return any(str(options.get(name, "")).lower() in _TRUE for name in ("enable_cuda_graph", "trt_cuda_graph_enable"))


def refused_capture(error: Exception) -> str:
    """Return why a session cannot be captured as a CUDA graph, or ``""`` when the error is about something else."""
    text = str(error)
    if "graph capture" not in text.lower() and "cuda graph" not in text.lower():
        return ""
    if "control flow" in text:
        why = "it has control flow (If, Loop, Scan), which runs on the CPU"
    elif "partitioned" in text:
        why = "not all of its nodes are on the GPU"
    else:
        why = text.strip().splitlines()[-1][:300]
    return f"this model cannot be captured as a CUDA graph: {why}. Turn enable_cuda_graph off for it"


def without_time(placement: Mapping[str, Any]) -> dict[str, Any]:
    """Return a placement without its share of time: the profile has how long kernels took to launch, not to run."""
    return {**placement, "time_share": {}}


def remarks(ep: str, options: Mapping[str, str], place: str, captured: bool) -> Iterator[str]:
    """Say what holds for a session on CUDA and is not to be seen in its numbers.

    :param options: provider options in force, as the session gives them. :param place: where inputs and outputs are
        bound while it is timed (``cuda:0``), or ``""``.
    """
    if ep not in EPS:
        return
    tf32 = options.get("use_tf32")
    if ep == CUDA and tf32 is not None:
        if str(tf32).lower() in _TRUE:
            yield (
                "TF32 is on, ONNX Runtime's default: float32 products may keep 10 bits of 23 (GPUs of capability "
                '8.0 and newer); use_tf32 = "0" turns it off.'
            )
        else:
            yield "TF32 is off: float32 is computed in float32."
    if captured:
        yield "It is timed as a replayed CUDA graph, tensors in the GPU's memory: no copies are in the times."
    elif place:
        yield "Inputs and outputs are bound in the GPU's memory while it is timed: no copies are in the times."
    else:
        yield "Inputs and outputs are numpy arrays: the times hold the copies to the GPU and back."
