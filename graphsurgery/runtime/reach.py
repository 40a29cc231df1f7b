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

from graphsurgery.encoder.windows import largest_window
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
MOST_TOKENS, MOST_NUMBERS = 1 << 13, 1 << 24
"""The longest feed, and how many numbers the outputs may have on it: attention takes memory by the square of the one, scores
over a vocabulary by the other."""
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
    """Whether a longer feed would have taken too long, or too much memory."""
    failed: int | None = None
    """The shortest length that ONNX Runtime could not run the source on."""

    def __str__(self) -> str:
        end = ", the longest that the model takes" if self.tokens == self.limit else ""
        return f"compared on texts of up to {self.tokens} token{'s' * (self.tokens != 1)}{end}"

    @property
    def not_checked(self) -> list[str]:
        """What is beyond, in words."""
        if self.tokens == self.limit:
            return []
        longer = f"texts longer than {self.tokens} token{'s' * (self.tokens != 1)}"
        if self.failed is not None:
            return [f"{longer}: ONNX Runtime cannot run the source on {self.failed}"]
        if self.hurried:
            return [f"{longer}: running them would take too much time or memory here; --full does it"]
        return [f"{longer}: the model sets no limit"]


def found_reach(source: Model, drawer: Drawer, run: Callable[[Values], Any], full: bool = False) -> Reach:
    """How far the feeds of ``drawer`` go for ``source``, which ``run`` runs; ``full``: however long that takes.

    Raises what ``run`` raises where it cannot run even one token.
    """
    if drawer.fixed_sequence is not None:
        return Reach(drawer.fixed_sequence, drawer.fixed_sequence)
    trial = _Trial(drawer, run)
    short = trial.short()
    window, table = largest_window(source), drawer.tables.positions
    if trial.failed is not None:
        return Reach(short, None, window, failed=trial.failed)
    ends = table is not None
    if table is not None and (full or trial.affordable(table + 1, short) > table):
        ends = not trial.runs(table + 1)  # a table that does not end there is none of positions
        trial.failed = None
    limit = min((one for one in (table if ends else None, drawer.most) if one is not None), default=None)
    goal = limit or max(UNLIMITED, 2 * (window or 0) + 1)
    tokens = goal if full else trial.affordable(goal, short)
    length = next((one for one in _lengths(tokens, drawer.tables.longest, short) if trial.runs(one)), short)
    if ends and length == drawer.tables.longest and tokens == table:
        limit = length
    return Reach(length, limit, window, tokens < goal, trial.failed if length != limit else None)


@dataclass
class _Trial:
    """Runs single rows of any length, and keeps what they took."""

    drawer: Drawer
    run: Callable[[Values], Any]
    failed: int | None = None
    seconds: float = 0.0
    numbers: int = 0
    """How many numbers the outputs of the last run have."""

    def short(self) -> int:
        """The length of the usual feeds, or what the source can be run on of it."""
        tokens = self.drawer.longest
        while tokens > 1 and not self.runs(tokens):
            tokens //= 2
        self._measure(tokens)  # a first run makes things ready
        return tokens

    def runs(self, tokens: int) -> bool:
        """Whether the source can be run on one row of as many tokens."""
        try:
            self._measure(tokens)
        except UnsupportedModelError:
            self.failed = min(tokens, self.failed or tokens)
            return False
        return True

    def affordable(self, goal: int, short: int) -> int:
        """``goal`` halved until a run of it takes no more than `SECONDS`, nor gives more than `MOST_NUMBERS`, as predicted."""
        self._measure(short)
        tokens = goal
        while tokens > short and (
            self.seconds * (tokens / short) ** GROWTH > SECONDS
            or self.numbers * (tokens / short) > MOST_NUMBERS
            or tokens > MOST_TOKENS
        ):
            tokens //= 2
        return max(tokens, short)

    def _measure(self, tokens: int) -> None:
        (mask, *_) = self.drawer.sizes.batches(padded_right([tokens]))
        feed = self.drawer.feed(mask, seed=0)
        start = time.perf_counter()
        found = self.run(feed)
        self.seconds = time.perf_counter() - start
        self.numbers = sum(int(np.size(getattr(one, "values", one))) for one in found.values())


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
        return drawer if reach.tokens == drawer.longest or reach.failed is None else replace(drawer, most=reach.tokens)
    return replace(drawer, reach=(reach.tokens, min(reach.tokens, max(PADDED, 2 * (reach.window or 0) + PADDED))))


def _lengths(tokens: int, table: int | None, short: int) -> list[int]:
    """Lengths to try, the longest first: a table may keep its first rows for padding."""
    halves = [tokens >> times for times in range(tokens.bit_length())]
    tried = [tokens, *([table] if table is not None and table < tokens else []), *halves[1:]]
    return [length for length in tried if length > short]
