"""Whether optimizing helped, as `optimize` tells it: what is faster, what is slower, and what is chance."""

from __future__ import annotations

import pytest

import graphsurgery
from graphsurgery.compare.timing import MOST, Timing, Timings, measure_times
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.runtime.session import Session

FASTER = Timing(1, 16, ((2.0, 1.0), (2.2, 1.1), (2.0, 1.1)))
SLOWER = Timing(32, 64, ((1.0, 1.5), (1.1, 1.5), (1.0, 1.4)))
SAME = Timing(8, 32, ((1.0, 1.0), (1.0, 1.01), (1.02, 1.0)))
NOISY = Timing(8, 32, ((1.0, 2.0), (1.0, 0.9), (1.0, 0.5), (1.0, 0.9), (1.0, 1.8), (1.0, 0.8)))


@pytest.mark.parametrize(
    ("shapes", "helped", "said"),
    [
        ([FASTER], True, "faster here (2.00x at 1 x 16 tokens)"),
        ([SLOWER], False, "SLOWER here (0.71x at 32 x 64 tokens): keep the file it was made from"),
        ([SAME], None, "no faster here (1.00x at 8 x 32 tokens)"),
        ([NOISY], None, "no faster here (1.11x at 8 x 32 tokens)"),
        ([FASTER, SAME], True, "faster here (2.00x at 1 x 16 tokens), no faster (1.00x at 8 x 32 tokens)"),
        ([SAME, SLOWER], False, "no faster here (1.00x at 8 x 32 tokens), SLOWER (0.71x at 32 x 64 tokens): keep the file it"),
        ([FASTER, SLOWER], None, "faster here (2.00x at 1 x 16 tokens), SLOWER (0.71x at 32 x 64 tokens): time it on"),
    ],
)  # fmt: skip
def test_what_is_told(shapes: list[Timing], helped: bool | None, said: str) -> None:
    timings = Timings(tuple(shapes))
    assert timings.helped is helped and str(timings).startswith(said)
    assert timings.to_json()["helped"] is helped


def test_pairs_are_of_one_size(fixture_copy) -> None:
    """A file against itself: as many runs of both, every shape that it takes, and no word of a difference that is large."""
    path = fixture_copy("bert")
    timings = measure_times(Session(path), Session(path), make_feed_generator(graphsurgery.load(path)))
    assert [(one.texts, one.tokens) for one in timings.shapes] == [(1, 16), (8, 32), (32, 62)]
    assert all(3 <= len(one.pairs) <= MOST and min(*one.pairs[0]) > 0 for one in timings.shapes)
