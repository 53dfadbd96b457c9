"""The table in the documentation is current."""

from __future__ import annotations

from fault_table import PAGE, page


def test_the_page_is_current() -> None:
    message = "docs/planted-faults.md is not current: run python tests/faults/fault_table.py"
    assert PAGE.read_text(encoding="utf-8") == page(), message
