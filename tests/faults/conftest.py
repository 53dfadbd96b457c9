"""What the tests of planted faults share: the models, obtained once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from subjects import Subjects


@pytest.fixture(scope="session")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subjects]:
    """The models that faults are planted in; each is made when it is first asked for."""
    made = Subjects(tmp_path_factory.mktemp("subjects"))
    yield made
    made.close()
