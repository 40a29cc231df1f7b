"""Prove the prover, once more: faults planted in the interface are caught, also where the whole proof is left out."""

from __future__ import annotations

import pytest
from faults import Fault
from interface_faults import INTERFACE_FAULTS

import graphsurgery
from graphsurgery.report import Verdict

pytestmark = pytest.mark.usefixtures("all_feeds")
CASES = list(dict.fromkeys(fault.case for fault in INTERFACE_FAULTS))
UNREADABLE = {
    "drop-input: forgotten", "rename: forgotten", "fix-dim: forgotten", "dynamic-dim: claimed of the batch alone",
    "add-input: forgotten", "drop-input of caches: claimed of a scalar", "drop-input of a task: claimed none",
}  # fmt: skip
"""What leaves nothing to hold the file against: the two do not take the same feeds, or the record says nothing."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_spoilt_was_right(case) -> None:
    """Every check of it passed, and strip-head leads back."""
    output = graphsurgery.load(case.output)
    for head_only in (False, True):
        report = graphsurgery.verify(output, against=case.loaded, head_only=head_only)
        assert report and all(check.verdict is Verdict.PASSED for check in report.checks), report.to_json()
    assert graphsurgery.strip_head(output).fingerprint == case.loaded.fingerprint


@pytest.mark.parametrize("fault", INTERFACE_FAULTS, ids=str)
@pytest.mark.parametrize("head_only", [False, True], ids=["whole", "head only"])
def test_faults_of_the_interface(fault: Fault, head_only: bool) -> None:
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=head_only)
    assert report.verdict is (Verdict.NOT_CHECKED if str(fault) in UNREADABLE else Verdict.FAILED)


def test_there_are_enough() -> None:
    """Six at least of every edit, under different names."""
    names = [str(fault) for fault in INTERFACE_FAULTS]
    assert len(set(names)) == len(names) >= 100
    for verb in ("drop-input", "optional-input", "input-type", "rename", "fix-dim", "dynamic-dim", "add-input", "keep-outputs"):
        assert sum(name.startswith(verb) for name in names) >= 6, verb
