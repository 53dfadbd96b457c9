"""No harmless change is called inaccurate."""

from __future__ import annotations

import pytest
from catalogue import HARMLESS, Harmless
from harmless_changes import UnavailableError
from pending import PENDING_HARMLESS
from planting import verdict_of
from subjects import Subjects


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.id)
def test_a_harmless_change_is_correct(change: Harmless, subjects: Subjects) -> None:
    try:
        verdict = verdict_of(subjects[change.subject], change.candidate)
    except UnavailableError as error:
        pytest.skip(str(error))
    if change.id in PENDING_HARMLESS:
        assert verdict.status not in change.statuses, f"{change.id} is right: remove it from pending.py"
        return
    assert verdict.status in change.statuses, verdict


def test_there_are_enough_changes_and_each_has_a_name_of_its_own() -> None:
    assert len(HARMLESS) >= 40
    assert len({change.id for change in HARMLESS}) == len(HARMLESS)
    assert {change.id for change in HARMLESS} >= PENDING_HARMLESS
