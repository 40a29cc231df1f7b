"""The faults of `token_faults` and `vector_faults`, planted one by one: caught, and by the head proof."""

from __future__ import annotations

from collections import Counter

import pytest
import token_faults
import vector_faults
from faults import Fault
from token_faults import CONVOLVED, MASKED, MIXTURES, RECURRENT, SPARSE, TOKEN_FAULTS, WEIGHTS, YES_OR_NO
from vector_faults import BENT, BYTES, DENSE, NORMS, TRUNCATED, UNREADABLE, VECTOR_FAULTS

import graphsurgery
from graphsurgery.report import Verdict

pytestmark = pytest.mark.usefixtures("all_feeds")
PASSED, FAILED, NOT_CHECKED = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED
FAULTS = (*TOKEN_FAULTS, *VECTOR_FAULTS)
EQUIVALENT = (*token_faults.EQUIVALENT, *vector_faults.EQUIVALENT)
CASES = list(dict.fromkeys(fault.case for fault in (*FAULTS, *EQUIVALENT, *UNREADABLE)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(edit.verb for edit in case.edits))
def test_what_is_spoilt_was_right(case) -> None:
    output = graphsurgery.load(case.output)
    for head_only in (False, True):
        assert graphsurgery.verify(output, against=case.loaded, head_only=head_only).verdict is PASSED


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=True)
    assert report.verdict is FAILED
    assert {check.name: check.verdict for check in report.checks}["head proof"] is FAILED


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is PASSED


@pytest.mark.parametrize("fault", UNREADABLE, ids=str)
def test_what_nobody_can_read_is_not_checked(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is NOT_CHECKED


@pytest.mark.parametrize(
    ("faults", "least"),
    [
        (CONVOLVED, 20), (RECURRENT, 30), (WEIGHTS, 20), (MIXTURES, 15), (SPARSE, 20), (MASKED, 20), (YES_OR_NO, 15),
        (DENSE, 15), (NORMS, 10), (BENT, 6), (TRUNCATED, 10), (BYTES, 15),
    ],
)  # fmt: skip
def test_there_are_enough(faults: list[Fault], least: int) -> None:
    assert max(Counter(map(str, faults)).values()) == 1 and len(faults) >= least


def test_equivalents_are_few() -> None:
    assert max(len(token_faults.EQUIVALENT), len(vector_faults.EQUIVALENT)) <= 6
