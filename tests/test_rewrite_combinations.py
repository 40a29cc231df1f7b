"""Every rewrite behind every other one, in both forms of exports: the same vectors on every kind of feed, or a known refusal.

A seed deals 30 pairs to the fixtures, three to each, and puts half precision behind five of them. All pairs on all fixtures are
in tests/combinations, which `make test-combinations` runs for many minutes.
"""

from __future__ import annotations

import random

import onnx_ir as ir
import pytest
from fusions import require_optimizer
from rewrite_combinations import FIXTURES, HALF, PAIRS, REWRITES, check, find_refusal, rewrite

from graphsurgery.rewrites.narrow import building
from graphsurgery.rewrites.registry import REWRITES as REGISTERED

require_optimizer()

SEED = 13
SHUFFLED = random.Random(SEED).sample(PAIRS, 3 * len(FIXTURES))
DEALT = [(FIXTURES[place % len(FIXTURES)], pair) for place, pair in enumerate(SHUFFLED)]
WITH_HALF = DEALT[:5]


def test_every_rewrite_is_here() -> None:
    """`half` is put behind pairs, and `reattach-head` is for heads of other programs. `quantize` is judged on real text, so
    tests/test_quantize.py combines it with others."""
    assert {*(one.name for one in REWRITES.values()), HALF, "reattach-head", "quantize"} == {*REGISTERED}
    assert {fixture for fixture, _ in DEALT} == {*FIXTURES}
    assert {first for _, (first, _) in DEALT} == {second for _, (_, second) in DEALT} == {*REWRITES}


@pytest.mark.parametrize(("fixture", "pair"), DEALT, ids=lambda one: one if isinstance(one, str) else "-".join(one))
def test_a_pair(fixture: str, pair: tuple[str, str]) -> None:
    check(fixture, pair)
    if (fixture, pair) in WITH_HALF and find_refusal(fixture, pair) is None:
        check(fixture, (*pair, HALF))


def test_a_wrong_token_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token before the one that the head takes."""
    right = building.Builder._find_rows

    def find_wrong(self: building.Builder) -> ir.Value:
        return self.add("Sub", [right(self), self.add_integers([1])], "fault")

    monkeypatch.setattr(building.Builder, "_find_rows", find_wrong)
    rewrite.cache_clear()
    with pytest.raises(AssertionError, match="FAILED"):
        check("xlmr", ("pooled-token",))
    rewrite.cache_clear()
