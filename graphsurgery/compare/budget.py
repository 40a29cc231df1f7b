"""The budget of a plan, measured: how many positions one run of a model should have on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from graphsurgery.compare.timing import Timing, race
from graphsurgery.runtime.batches import plan
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask

BUDGETS = (256, 512, 1024, 2048)
"""The candidates."""
SECONDS = 2.0
"""How long they are timed, in turns; or five rounds if these take longer."""
LENGTHS = tuple(int(length) for length in np.rint(np.geomspace(5, 250, 48)))
"""The tokens of the texts that are run: many short ones and a few long ones, as sentences have. 3073 altogether."""

Feeds = Sequence[dict[str, np.ndarray]]


def measure_budget(
    run_all: Callable[[Feeds], object], generator: FeedGenerator, seconds: float = SECONDS, padded: bool = True
) -> int:
    """Return the smallest of `BUDGETS` that no larger one clearly beats: it needs the least memory.

    ``run_all`` runs texts of `LENGTHS`, cut at what the model takes, in the batches that `plan` gives for each candidate, by
    tokens alone if the file computes no padding, ``padded`` false. Raises what ``run_all`` raises.
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
