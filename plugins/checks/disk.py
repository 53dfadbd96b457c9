"""Is there room for the store? A runtime takes 150 to 700 MB, with CUDA several GB."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from ortforge.api import Check, CheckContext, CheckOutcome

_LOW = 5_000_000_000
_NONE = 1_000_000_000


def ortforge_checks() -> Iterable[Check]:
    """Give the check."""
    yield Check(name="disk", summary="there is room where the store is", run=check)


def check(context: CheckContext) -> CheckOutcome:
    """Compare the free space with what a few runtimes need."""
    folder = next(path for path in (context.store, *context.store.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    message = f"{free / 1e9:.1f} GB are free at {context.store}."
    todo = "Free some ('ortforge cache clean', 'uv cache prune'), or keep the store elsewhere: --store DIR."
    if free < _NONE:
        return CheckOutcome("problem", message, todo)
    return CheckOutcome("warning" if free < _LOW else "ok", message, "" if free >= _LOW else todo)
