"""Known faults of exports, mended or named: masks that hide channels, sizes that are only declared, half-precision inputs."""

from __future__ import annotations

import pytest
from faults import Fault
from mending_faults import ALIGNED, ALIGNED_FIRST, EQUIVALENT, HALF, MENDING_FAULTS, PAIRS, PICTURES, RELAXED, Mended

import graphsurgery
from graphsurgery.report import Verdict


@pytest.mark.parametrize("case", [ALIGNED, ALIGNED_FIRST, RELAXED, PAIRS, PICTURES, HALF], ids=str)
def test_what_is_spoilt_was_right(case: Mended) -> None:
    assert graphsurgery.verify(case.output, against=case.loaded).verdict is Verdict.PASSED


@pytest.mark.parametrize("fault", MENDING_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is not Verdict.PASSED


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is Verdict.PASSED
