"""The faults of `token_faults`, planted one by one: caught, and by the head proof alone."""

from __future__ import annotations

from collections import Counter

import pytest
from faults import Fault
from token_faults import CONVOLVED, EQUIVALENT, MASKED, MIXTURES, RECURRENT, SPARSE, TOKEN_FAULTS, WEIGHTS

import graphsurgery
from graphsurgery.report import Verdict

PASSED, FAILED = Verdict.PASSED, Verdict.FAILED
CASES = list(dict.fromkeys(fault.case for fault in (*TOKEN_FAULTS, *EQUIVALENT)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(edit.verb for edit in case.edits))
def test_what_is_spoilt_was_right(case) -> None:
    for head_only in (False, True):
        assert graphsurgery.verify(case.output, against=case.source, head_only=head_only).verdict is PASSED


@pytest.mark.parametrize("fault", TOKEN_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.source, head_only=True)
    assert report.verdict is FAILED
    assert {check.name: check.verdict for check in report.checks}["head proof"] is FAILED


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.source).verdict is PASSED


@pytest.mark.parametrize(
    ("faults", "least"), [(CONVOLVED, 20), (RECURRENT, 30), (WEIGHTS, 20), (MIXTURES, 15), (SPARSE, 20), (MASKED, 20)]
)
def test_there_are_enough(faults: list[Fault], least: int) -> None:
    assert max(Counter(map(str, faults)).values()) == 1 and len(faults) >= least
    assert len(EQUIVALENT) <= 6
