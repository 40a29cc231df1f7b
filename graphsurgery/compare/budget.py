"""Measure the budget of a batch plan: how many positions one run of a model should have on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from graphsurgery.compare.timing import Timing, race
from graphsurgery.runtime.batches import plan
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask

BUDGETS = (256, 512, 1024, 2048)
"""The budgets that are tried, in positions of one run."""
SECONDS = 2.0
"""How long the budgets are timed, in turns. If five rounds take longer, five rounds are timed."""
LENGTHS = tuple(int(length) for length in np.rint(np.geomspace(5, 250, 48)))
"""The lengths of the texts that are timed, in tokens: many short texts and a few long ones. Together they have 3,073 tokens."""

Feeds = Sequence[dict[str, np.ndarray]]


def measure_budget(
    run_all: Callable[[Feeds], object], generator: FeedGenerator, seconds: float = SECONDS, padded: bool = True
) -> int:
    """Return the smallest of `BUDGETS` that no larger one clearly beats. A small budget needs less memory.

    ``run_all`` runs texts of `LENGTHS`, cut to the longest that the model takes, in the batches that `plan` makes for each
    budget. ``padded`` is false for a file that computes no padding, whose budget counts tokens alone. Raises what ``run_all``
    raises.
    """
    lengths = [generator.limit_length(length) for length in LENGTHS]
    drawn = [_draw_feeds(generator, lengths, budget, padded) for budget in BUDGETS]
    rounds = race([partial(run_all, feeds) for feeds in drawn], seconds)
    best = 0
    for place in range(1, len(BUDGETS)):
        pairs = tuple((one[best], one[place]) for one in rounds)
        if Timing(len(lengths), max(lengths), pairs).helped:
            best = place
    return BUDGETS[best]


def _draw_feeds(generator: FeedGenerator, lengths: Sequence[int], budget: int, padded: bool) -> Feeds:
    masks = [make_mask([lengths[one] for one in rows]) for rows in plan(lengths, budget, padded=padded)]
    return [generator.generate(part, seed=0) for mask in masks for part in generator.sizes.split_into_batches(mask)]
