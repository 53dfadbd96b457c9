"""Can packages be had? Runtimes and some models come from a package index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ortforge.api import Check, CheckContext, CheckOutcome

from ._uv import ask

_PACKAGE = "onnxruntime"
"""What is looked up: an index without it is of no use here."""
_LIMIT_S = 10.0
_ON = frozenset({"1", "true", "t", "yes", "y", "on"})
"""What uv takes for a switch that is on."""


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="index", summary="the package index answers", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """Let uv look one package up, past its cache: with the index, proxy and certificates that provisioning uses."""
    if context.uv is None:
        return CheckOutcome("warning", "Not asked: uv is not there.")
    if context.uv_environ.get("UV_OFFLINE", "").lower() in _ON:
        return CheckOutcome("ok", "Offline: UV_OFFLINE is set; what is cached or lies in local folders is used.")
    patient = replace(context, uv_environ={**context.uv_environ, "UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"})
    command = ("pip", "compile", "--quiet", "--no-header", "--no-deps", "--no-python-downloads", "--refresh", "-")
    todo = 'Connect (HTTPS_PROXY and UV_INDEX_URL are honoured). What is cached, and from = "wheel", work without.'
    try:
        code, said = ask(patient, *command, given=_PACKAGE, limit_s=_LIMIT_S)
    except (OSError, TimeoutError) as error:
        return CheckOutcome("problem", f"The package index was not reached: {error}.", todo)
    if code:
        reason = said.splitlines()[-1].strip().removeprefix("cause: ") if said else "uv gives no reason"
        return CheckOutcome("problem", f"The package index does not give {_PACKAGE}: {reason}", todo)
    newest = next((line for line in said.splitlines() if line.startswith(_PACKAGE)), said)
    return CheckOutcome("ok", f"The package index answers; the newest there is {newest}.")
