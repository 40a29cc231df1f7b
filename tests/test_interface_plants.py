"""Faults that show on one kind of text alone are caught at every kind of interface (the table of docs/verification.md)."""

from __future__ import annotations

from functools import cache

import onnx
import pytest
from encoders import tiny_encoder
from interface_plants import EMBEDDING, FAULTS, INTERFACES, PLACES, proven, source_of

import graphsurgery
from graphsurgery.proof import verify as verify_module
from graphsurgery.report import Report, Verdict

pytestmark = pytest.mark.usefixtures("all_feeds")
CELLS = [
    (fault, interface, place)
    for fault, kind in FAULTS.items()
    for interface, dims in INTERFACES.items() if kind.possible(*dims)
    for place in kind.places
]  # fmt: skip


def by_numbers(report: Report) -> bool:
    return any(one.verdict is Verdict.FAILED for check in report.checks for one in check.comparisons)


@cache
def pooled(interface: str) -> onnx.ModelProto:
    """The encoder with a head of several modes."""
    return graphsurgery.add_pooling(source_of(INTERFACES[interface]), mode="cls,mean").to_proto()


@pytest.mark.parametrize(("fault", "interface", "place"), CELLS, ids=lambda value: value)
def test_the_fault_is_caught(fault: str, interface: str, place: str) -> None:
    """By its numbers, and not by the nodes that the plant needs."""
    report = proven(source_of(INTERFACES[interface]), FAULTS[fault], place, pooled(interface))
    assert report.verdict is Verdict.FAILED and by_numbers(report)


@pytest.mark.parametrize("interface", INTERFACES)
def test_without_a_fault_it_passes(interface: str) -> None:
    source = source_of(INTERFACES[interface])
    assert graphsurgery.verify(source, against=source)
    assert graphsurgery.verify(source, against=source, min_cosine=0.999)
    assert graphsurgery.verify(pooled(interface), against=source)


@pytest.mark.parametrize("fault", FAULTS)
def test_heads_of_large_files(fault: str, monkeypatch) -> None:
    """Beyond 2 GiB of weights the whole proof does not run unasked: the head proof catches them alone."""
    monkeypatch.setattr(verify_module, "WHOLE_BY_DEFAULT", 0)
    report = proven(source_of(INTERFACES["dynamic"]), FAULTS[fault], "head", pooled("dynamic"))
    assert report.verdict is Verdict.FAILED and by_numbers(report) and any("whole proof" in one for one in report.not_checked)


def test_the_head_is_named_as_planted() -> None:
    """What the plants look for is there."""
    assert [info.name for info in pooled("dynamic").graph.output] == [EMBEDDING] and len(PLACES) == 3
    assert tiny_encoder().graph.output
