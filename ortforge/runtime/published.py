"""Says, before anything is installed, whether published wheels can give an execution provider.

An EP may run on a device and yet be in no published wheel (XNNPACK, oneDNN): that is about the wheels, not about
the device, so it is no matter of :attr:`ortforge.api.Backend.availability`. The planner asks here, for targets that
are made ``from = "package"``.
"""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ortforge.api import Backend
from ortforge.runtime.uv_errors import ORT_DISTRIBUTIONS

__all__ = ["published_problem"]


def published_problem(backend: Backend, requires: Sequence[str]) -> str:
    """Return why a package target's requirements cannot give an EP, or ``""``.

    Distributions that ortforge does not know (a company's own build) get the benefit of the doubt: the worker asks the
    runtime itself.

    >>> published_problem(Backend("cpu", "CPUExecutionProvider", ""), ["onnxruntime==1.32.0"])
    ''
    """
    names = [_name(text) for text in requires]
    if backend.plugin is not None:
        needed = backend.plugin.distribution
        if needed in names:
            return ""
        return f"{backend.ep} comes as {needed}, which the target does not require: add it to `requires`"
    if backend.ep == "CPUExecutionProvider":  # in every build of ONNX Runtime
        return ""
    known = [name for name in names if name in ORT_DISTRIBUTIONS]
    foreign = any("onnxruntime" in name and name not in known for name in names if name)
    if not known or foreign or "" in names or any(name in backend.published for name in names):
        return ""
    if not backend.published:
        return f'no published wheel holds {backend.ep}: it takes a build from source (from = "source")'
    return f"{' and '.join(known)} does not hold {backend.ep}: {' or '.join(backend.published)} does"


def _name(requirement: str) -> str:
    """Return the distribution's canonical name; ``""`` for what is named by an address or cannot be read."""
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return ""
    return "" if parsed.url else canonicalize_name(parsed.name)
