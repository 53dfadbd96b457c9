"""Every planted fault is detected, and a reason names the output at fault."""

from __future__ import annotations

import pytest
from catalogue import FAULTS, Fault
from pending import PENDING_FAULTS
from planting import verdict_of
from subjects import Subjects

from ortforge.portable.statuses import CORRECT


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_is_detected_and_named(fault: Fault, subjects: Subjects) -> None:
    verdict = verdict_of(subjects[fault.subject], fault.candidate)
    detected = verdict.status in fault.statuses and fault.is_named(verdict)
    if fault.id in PENDING_FAULTS:
        assert not detected, f"{fault.id} is detected: remove it from pending.py"
        return
    assert verdict.status not in CORRECT, f"a wrong {verdict.status}: {verdict.reasons}"
    assert verdict.status in fault.statuses, verdict
    assert fault.is_named(verdict), verdict.reasons


def test_there_are_enough_faults_and_each_has_a_name_of_its_own() -> None:
    assert len(FAULTS) >= 60
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
    assert {fault.id for fault in FAULTS} >= PENDING_FAULTS
