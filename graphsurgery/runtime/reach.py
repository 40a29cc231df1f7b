"""How long the longest texts of a proof are: up to what the model takes, as far as time allows.

A position table ends somewhere; local attention differs from global attention beyond its window alone; rotary and relative
positions have no end. So the longest feed reaches the end of the position table, or else `UNLIMITED` tokens and twice the
largest window. A short run tells how long that would take: where it is more than `SECONDS`, the feed is halved until it fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphsurgery.anatomy.windows import largest_window
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.masks import padded_right

UNLIMITED = 2048
"""Tokens of the longest feed where nothing in the model limits it."""
SECONDS = 15.0
"""How long one run of the longest feed may take, as predicted."""
GROWTH = 1.5
"""The power of its length with which a run's time is predicted to grow: linear layers grow by 1, attention by 2."""
PADDED = 256
"""Positions of the longest feed with padding, beyond twice the largest window."""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reach:
    """``tokens``: the length of the longest feed. ``limit``: the length that the model takes, None where nothing in it sets
    one; ``window``: how far a token looks to either side at most, where attention is local."""

    tokens: int
    limit: int | None = None
    window: int | None = None
    hurried: bool = False
    """Whether a longer feed would have taken too long."""

    def __str__(self) -> str:
        end = ", the longest that the model takes" if self.tokens == self.limit else ""
        return f"compared on texts of up to {self.tokens} tokens{end}"

    @property
    def not_checked(self) -> list[str]:
        """What is beyond, in words."""
        if self.tokens == self.limit:
            return []
        longer = f"texts longer than {self.tokens} tokens"
        if self.hurried:
            return [f"{longer}: running them would take too long here; --full does it"]
        if self.limit is None:
            return [f"{longer}: the model sets no limit"]
        return [f"{longer}: the model has {self.limit} positions, but ONNX Runtime cannot run the source on them"]


def found_reach(source: Model, drawer: Drawer, run: Callable[[Values], object], full: bool = False) -> Reach:
    """How far the feeds of ``drawer`` go for ``source``, which ``run`` runs; ``full``: however long that takes.

    Raises what ``run`` raises where it cannot run a short text.
    """
    if drawer.fixed_sequence is not None:
        return Reach(drawer.fixed_sequence, drawer.fixed_sequence)
    window = largest_window(source)
    table = drawer.tables.positions
    limit = min((one for one in (table, drawer.most) if one is not None), default=None)
    goal = limit or max(UNLIMITED, 2 * (window or 0) + 1)
    short = drawer.longest
    seconds = min(_seconds(run, drawer, short) for _ in range(2))  # a first run makes things ready
    tokens = goal
    while not full and tokens > short and seconds * (tokens / short) ** GROWTH > SECONDS:
        tokens //= 2
    hurried = tokens < goal
    runs = (length for length in _lengths(tokens, drawer.tables.longest, short) if _runs(run, drawer, length))
    length = next(runs, short)
    ends = length == drawer.tables.longest and tokens == table
    return Reach(length, length if ends else limit, window, hurried)


@dataclass
class Kept:
    """A run that keeps what the longest feed came to: it is asked for to see how far feeds reach, and again for the proof."""

    run: Callable[[Values], Any]
    feed: Values = field(default_factory=dict)
    result: Any = None

    def __call__(self, feed: Values) -> Any:
        if self.feed.keys() == feed.keys() and all(np.array_equal(feed[name], self.feed[name]) for name in feed):
            return self.result
        result = self.run(feed)
        if _size(feed) > _size(self.feed):
            self.feed, self.result = feed, result
        return result


def _size(feed: Values) -> int:
    return max((array.size for array in feed.values()), default=0)


def reaching(drawer: Drawer, reach: Reach) -> Drawer:
    """``drawer`` with feeds of that length."""
    if reach.tokens <= drawer.longest:
        return drawer
    return replace(drawer, reach=(reach.tokens, min(reach.tokens, max(PADDED, 2 * (reach.window or 0) + PADDED))))


def _lengths(tokens: int, table: int | None, short: int) -> list[int]:
    """Lengths to try, the longest first: a table may keep its first rows for padding."""
    halves = [tokens >> times for times in range(tokens.bit_length())]
    tried = [tokens, *([table] if table is not None and table < tokens else []), *halves[1:]]
    return [length for length in tried if length > short]


def _runs(run: Callable[[Values], object], drawer: Drawer, tokens: int) -> bool:
    try:
        _seconds(run, drawer, tokens)
    except UnsupportedModelError:
        return False
    return True


def _seconds(run: Callable[[Values], object], drawer: Drawer, tokens: int) -> float:
    """How long one row of as many tokens takes."""
    (mask, *_) = drawer.sizes.batches(padded_right([tokens]))
    feed = drawer.feed(mask, seed=0)
    start = time.perf_counter()
    run(feed)
    return time.perf_counter() - start
