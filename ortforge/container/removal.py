"""How a container is removed: the one place, for a refusal of the engine may be over a moment later."""

from __future__ import annotations

import time
from typing import Any, Final

__all__ = ["PATIENCE_S", "remove_container"]

PATIENCE_S: Final = 5.0
"""How long a refused removal is asked for again."""

_PAUSE_S: Final = 0.05


def remove_container(api: Any, container: str) -> None:
    """Remove a container, whatever it does, with its anonymous volumes; one that is gone already is no error.

    A container that ends by itself in the moment it is removed is refused with 409, "Could not kill running container,
    cannot remove", and stays; so it is while somebody else removes it, or while its files are busy. Nothing of that
    lasts, and a container that stays keeps its volumes in use.

    :param api: the Docker SDK's low-level client.
    :raises docker.errors.APIError: the engine still refuses after :data:`PATIENCE_S`; and what else the SDK raises.
    """
    import docker.errors

    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError:
            if time.monotonic() >= end:
                raise
            time.sleep(_PAUSE_S)
        else:
            return
