"""From an exception to one of the protocol's kinds, with a message that a person can read.

ORT reports one cause under different classes from version to version (an unknown opset is a ``Fail`` in 1.32 and an
``InvalidArgument`` in 1.21), so its words decide first and its classes second.
"""

from __future__ import annotations

import re

from .protocol import JobError

__all__ = ["classify", "short"]

_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "std::bad_array_new_length",
    "Cannot allocate memory",
    "out of memory",
    "OOM",
)

_THREADS = ("Resource temporarily unavailable", "can't start new thread", "pthread_create")

_UNSUPPORTED = (
    "Could not find an implementation for",
    "No Op registered for",
    "is not a registered function/op",
    "No opset import for domain",
    "No schema registered for",
    "is under development and support for this is limited",
    "Unsupported model IR version",
    "Unsupported type proto",
    "has no kernel",
    "Kernel not found",
    "NOT_IMPLEMENTED",
    "not implemented",
    "not supported by this EP",
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
    if any(words in text for words in _MEMORY):
        return JobError("memory", message)
    if isinstance(error, ImportError) and phase == "import":
        return JobError("failed", f"the environment lacks something: {message}")
    if type(error).__module__.startswith(("onnxruntime.", "google.protobuf", "onnx.")):
        if any(words in text for words in _UNSUPPORTED):
            return JobError("unsupported", message)
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


def short(text: str) -> str:
    """Return the first line of ORT's message without status codes, source files and C++ signatures.

    >>> short("[ONNXRuntimeError] : 1 : FAIL : /src/onnxruntime/core/a.cc:17 void onnxruntime::F(int) Bad x")
    'Bad x'
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    # "path.cc:17 type onnxruntime::Class::Function(types) const " before the words of an ORT_ENFORCE
    line = re.sub(r"\S+\.(?:cc|h|cpp|hpp|cu):\d+ +[^()]*?[\w:~>]+(\((?:[^()]|\([^()]*\))*\))(?: const)? *", "", line)
    line = re.sub(r"\S+\.(?:cc|h|cpp|hpp|cu):\d+ ", "", line)
    line = re.sub(r"Failed to load model with error: (?=\S)", "", line)
    line = line.replace("with node name ''", "(a node without a name)").strip()
    return line if len(line) <= 400 else line[:397] + "…"
