"""Every rewrite alone and behind every other one, on every fixture, with half precision behind them and without it.

`make test-combinations` runs it, for many minutes; `make test` has a sample of it.
"""

from __future__ import annotations

import pytest
from rewrite_combinations import FIXTURES, HALF, PAIRS, REWRITES, check, find_refusal, rewrite


@pytest.mark.parametrize("first", REWRITES)
@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_rewrite_and_those_behind_it(fixture: str, first: str) -> None:
    for names in ((first,), *(pair for pair in PAIRS if pair[0] == first)):
        check(fixture, names)
        if find_refusal(fixture, names) is None:
            check(fixture, (*names, HALF))
    rewrite.cache_clear()
