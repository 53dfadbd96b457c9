"""From an exception to one of the protocol's kinds, with a message that a person can read.

ORT reports one cause under different classes from version to version (an unknown opset is a ``Fail`` in 1.32 and an
``InvalidArgument`` in 1.21), so its words decide first and its classes second.
"""

from __future__ import annotations

import re
import sys

from .protocol import JobError

__all__ = ["classify", "short"]

_LONGEST = 400
"""Characters of a message; the log has all of it."""

_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "std::bad_array_new_length",
    "Cannot allocate memory",
    "out of memory",
)

_OOM = re.compile(r"\bOOM\b")
"""By itself: names of nodes and tensors hold the letters, too."""

_THREADS = ("can't start new thread", "pthread_create", "std::thread")
"""Words of a thread that could not be started."""

_NO_RESOURCE = "Resource temporarily unavailable"
"""EAGAIN: what ``std::thread`` raises when there can be no further thread, and other calls for their reasons."""

_INCOMPATIBLE = (
    "Unsupported model IR version",
    "is under development and support for this is limited",
    "API version",
)
"""A model, or an EP's library, that was made for a newer ONNX Runtime."""

_CAUSES = (
    (
        re.compile(r"scale must be (?:1D tensor|a scalar)|scale and zero.?point (?:must|should)|scale\.Shape\(\)"),
        "The pass or tool that quantized the model wrote a scale whose shape does not fit this node's tensor",
    ),
    (
        re.compile(r"MatMulInteger.*Incompatible dimensions"),
        "The pass or tool that quantized the model wrote a weight whose shape does not fit this node",
    ),
)
"""What ORT's words about a node mean, where they do not say it. The cause comes first, then ORT's own words."""

_UNSUPPORTED = (
    "Could not find an implementation for",
    "No Op registered for",
    "is not a registered function/op",
    "No opset import for domain",
    "No schema registered for",
    "Unsupported type proto",
    "has no kernel",
    "Kernel not found",
    "NOT_IMPLEMENTED",
    "not implemented",
    "doesn't support",
    "does not support",
    "explicitly disabled fallback",
    "No corresponding Numpy type",
)

_BY_CLASS = {
    "NotImplemented": "unsupported",
    "InvalidProtobuf": "model",
    "InvalidGraph": "model",
    "NoModel": "model",
    "NoSuchFile": "model",
    "DecodeError": "model",
    "ValidationError": "model",
}

_AT_LOAD = ("InvalidArgument", "Fail", "RuntimeException")
"""Classes that ORT uses for anything; while a model is loaded they speak of the model."""

_MODEL_WORDS = (
    "protobuf",
    "No graph was found",
    "Invalid model",
    "invalid model",
    "Load model",
    "Failed to load model",
    "Type Error",
    "external data",
    "External data",
    "initializer",
    "node ",
    "graph",
    "TensorProto",
    "tensor proto",
    "tensorprotoutils",
    "ShapeInferenceError",
    "ShapeInference",
    "opset_import",
)


def classify(error: BaseException, phase: str) -> JobError:
    """Return the failure that an exception means.

    :param phase: the phase it happened in.
    """
    if isinstance(error, JobError):
        return error
    name, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError):
        return JobError("memory", f"out of memory: {short(text)}" if text else "out of memory")
    message = short(text) or name
    if any(words in text for words in _THREADS):
        return JobError("failed", f"could not start a thread (limit of memory or of processes): {message}")
    if _NO_RESOURCE in text:
        return JobError("failed", f"The system refused a resource, most likely a further thread: {message}")
    if any(words in text for words in _MEMORY) or _OOM.search(text):
        return JobError("memory", message)
    if isinstance(error, ImportError) and phase == "import":
        return JobError("failed", f"the environment lacks something: {message}")
    if type(error).__module__.startswith(("onnxruntime.", "google.protobuf", "onnx.")):
        if any(words in text for words in _INCOMPATIBLE):
            return JobError("incompatible", _with_version(message))
        if any(words in text for words in _UNSUPPORTED):
            return JobError("unsupported", message)
        message = _with_cause(message)
        if name in _BY_CLASS:
            return JobError(_BY_CLASS[name], message)
        if phase == "load" and name in _AT_LOAD and any(words in text for words in _MODEL_WORDS):
            return JobError("model", message)
        return JobError("failed", message)
    if isinstance(error, NotImplementedError):
        return JobError("unsupported", message)
    if isinstance(error, (ValueError, RuntimeError)):  # raised on purpose, with a sentence
        return JobError("failed", message)
    return JobError("failed", f"{name}: {message}" if message != name else name)


def _with_version(message: str) -> str:
    """Name ONNX Runtime's version beside what it says that it is too old for."""
    version = getattr(sys.modules.get("onnxruntime"), "__version__", "")
    return f"This ONNX Runtime {version} is too old for the model: {message}" if version else message


def _with_cause(message: str) -> str:
    cause = next((cause for pattern, cause in _CAUSES if pattern.search(message)), "")
    return f"{cause}: {message}" if cause else message


def short(text: str) -> str:
    """Return what ORT's message says, in one line, without status codes, source files and C++ signatures.

    >>> short("[ONNXRuntimeError] : 1 : FAIL : /src/onnxruntime/core/a.cc:17 void onnxruntime::F(int) Bad x")
    'Bad x'
    """
    said = ""
    for line in text.splitlines():
        cleaned = _clean(line)
        said = f"{said} {cleaned}" if said and cleaned else said or cleaned
        if said and not said.endswith(":"):  # "Exception while loading:" goes on in the next line
            break
    return said if len(said) <= _LONGEST else said[: _LONGEST - 1] + "…"


def _clean(line: str) -> str:
    line = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"Load model from .*? failed:\s*(?=\S)", "", line)
    line = re.sub(r"Exception from \S+:\d+:\s*|Check '.*?' failed at \S+:\d+:\s*", "", line)
    while found := re.search(r"\S+\.(?:cc|h|cpp|hpp|cu):\d+ +", line):
        line = line[: found.start()] + _after_signature(line[found.end() :])
    line = re.sub(r"Failed to load model with error: (?=\S)|Exception during initialization: (?=\S)", "", line)
    line = re.sub(
        r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: ", _in_node, line
    )
    line = re.sub(r"ONNX Runtime only \*guarantees\* support .*? onnx opset versions\. (?=\S)", "", line)
    return line.replace("with node name ''", "(a node without a name)").strip()


def _in_node(found: re.Match[str]) -> str:
    name = f" {found[2]!r}" if found[2] else ""
    return f"{found[1]} node{name}: "


def _after_signature(text: str) -> str:
    """Skip a C++ signature: up to the end of the word that closes its parameters, ``const`` and ``[with …]``.

    Text without parentheses has no signature and is returned as it is.
    """
    depth, closed, position = 0, False, 0
    for position, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            closed = closed or depth == 0
        elif letter == " " and depth == 0 and closed:
            rest = text[position + 1 :]
            if rest.startswith("const "):
                continue
            if not rest.startswith("[with "):
                return rest
    return "" if closed and depth == 0 and position else text
