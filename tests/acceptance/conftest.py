"""What acceptance tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for tests that do not mind what is cached: environments are made once."""
    return tmp_path_factory.mktemp("store")
