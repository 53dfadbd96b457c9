"""The statuses: their order, their groups, and the table in the documentation."""

from __future__ import annotations

from pathlib import Path

from ortforge.portable.statuses import BROKEN, CORRECT, MEANINGS, NOT_RUN, STATUSES, is_correct, rank

PAGE = Path(__file__).parents[2] / "docs" / "verdicts.md"


def test_every_status_has_a_meaning_and_the_page_has_the_same() -> None:
    assert tuple(MEANINGS) == STATUSES
    page = PAGE.read_text("utf-8")
    for status, meaning in MEANINGS.items():
        assert f"| `{status}` | {meaning} |" in page


def test_the_groups_are_parts_of_the_whole_and_have_nothing_in_common() -> None:
    groups = [CORRECT, NOT_RUN, BROKEN]
    assert set().union(*groups) | {"unproven", "inaccurate", "misplaced"} == set(STATUSES)
    assert sum(map(len, groups)) + 3 == len(STATUSES)


def test_every_correct_status_is_better_than_every_other() -> None:
    worst = max(rank(status) for status in STATUSES if is_correct(status))
    assert all(rank(status) > worst for status in STATUSES if not is_correct(status))
