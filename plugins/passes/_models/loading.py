"""Whether a model loads where its cell will load it: on the cell's EP, with the CPU EP behind it.

Runs inside a runtime beside the pass that imports it; only the standard library is imported when the file is.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from . import model_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ortforge.api import PassJob

__all__ = ["COMPILERS", "CPU", "DIED", "left_to_cpu", "load_error", "providers_of", "session_of", "whether_it_runs"]

CPU: Final = "CPUExecutionProvider"

COMPILERS: Final = frozenset(
    {
        "CoreMLExecutionProvider",
        "MIGraphXExecutionProvider",
        "NvTensorRTRTXExecutionProvider",
        "OpenVINOExecutionProvider",
        "QNNExecutionProvider",
        "TensorrtExecutionProvider",
        "VitisAIExecutionProvider",
    }
)
"""EPs that compile parts of a graph and have no kernels to ask for: making a session takes them up to minutes. The
cell's own session tells what they take."""

ASSIGNMENTS: Final = "session.record_ep_graph_assignment_info"
"""Makes a session tell which nodes each EP took; ONNX Runtime 1.24 and later know it."""


def providers_of(job: PassJob) -> list[tuple[str, dict[str, str]]]:
    """Return the EPs that a pass's own sessions are made with; the CPU EP alone where the cell's cannot be asked.

    That is so for EPs that compile, and for those that are registered as plugins or missing here.
    """
    import onnxruntime

    behind = (CPU, dict[str, str]())
    if job.ep_name in (CPU, *COMPILERS) or job.ep_name not in onnxruntime.get_available_providers():
        return [behind]
    # Capturing a graph asks for more than loading the model.
    options = {name: value for name, value in job.ep_options.items() if name != "enable_cuda_graph"}
    return [(job.ep_name, options), behind]


def session_of(path: Path, job: PassJob, *, optimized: bool = True, config: tuple[str, ...] = ()) -> Any:
    """Load a model as the cell would, without a word in the log.

    :param config: configuration entries to switch on.
    :raises Exception: whatever ONNX Runtime raises.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    for name in config:
        options.add_session_config_entry(name, "1")
    return onnxruntime.InferenceSession(str(path), options, providers=providers_of(job))


DIED = re.compile("it crashed|it did not answer|its process ended")
"""How the reason of a trial begins whose process died: nothing is said by that about what is supported."""


def whether_it_runs(path: Path, feed: Mapping[str, Any]) -> str:
    """Say whether a model runs on a sample on the CPU EP without optimizations, for the message of what did not run.

    :param path: the model before it was changed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[CPU])
        session.run(None, dict(feed))
    except Exception as problem:
        return (
            f"The model itself does not run on this sample: {model_file.first_sentence(problem)} "
            "Check that the data has the shapes and types of the model's inputs."
        )
    return "The model itself runs on this sample, so the data are not at fault."


def load_error(path: Path, job: PassJob, *, kernels: bool = True) -> str:
    """Say why this runtime does not take the model for the cell's EP, or return ``""``.

    :param kernels: ``False`` when a missing kernel does not count. It never does where only the CPU EP could be asked
        and the cell runs on another one.
    """
    asked = providers_of(job)[0][0] == job.ep_name
    try:
        # Packing weights for kernels is what takes long, and it says nothing.
        session_of(path, job, optimized=False, config=("session.disable_prepacking",))
    except Exception as problem:
        missing = type(problem).__name__ == "NotImplemented"
        return "" if missing and not (kernels and asked) else model_file.first_line(problem)
    return ""


def left_to_cpu(path: Path, job: PassJob, operators: Collection[str]) -> dict[str, int]:
    """Count, of these operators, the nodes that the cell's EP leaves to the CPU EP; nothing where ORT does not tell.

    The graph is optimized first, as the cell's session does it.
    """
    if providers_of(job)[0][0] == CPU:
        return {}
    config = ("session.disable_prepacking", ASSIGNMENTS)
    try:
        session = session_of(path, job, config=config)
        if not hasattr(session, "get_provider_graph_assignment_info"):
            return {}
        parts = session.get_provider_graph_assignment_info()
    except Exception:
        # That a model does not load is said elsewhere.
        return {}
    found = Counter(
        node.op_type for part in parts if part.ep_name == CPU for node in part.get_nodes() if node.op_type in operators
    )
    return dict(sorted(found.items()))
