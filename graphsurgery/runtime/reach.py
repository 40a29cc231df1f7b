"""The longest texts of a proof: as long as the model takes, if time and memory allow.

A position table ends somewhere; local attention differs from global attention beyond its window alone; rotary and relative
positions have no end. So the longest feed reaches the end of the position table. Without a table it reaches `UNLIMITED` tokens,
or more than twice the largest window if that is longer. A short run predicts how long that takes. If it is more than `SECONDS`,
the feed is halved until it fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphsurgery.encoder.limits import find_largest_window
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.media import Medium, describe_length

UNLIMITED = 2048
"""Tokens of the longest feed if nothing in the model limits it."""
LONGEST_CLIP = 512
"""Frames of the longest clip: ten seconds at the usual fifty frames a second."""
SECONDS = 15.0
"""Upper limit on the predicted time of a run of the longest feed."""
GROWTH = 1.5
"""The predicted time of a run grows with this power of its length: linear layers grow with power 1, attention with 2."""
MOST_TOKENS, MOST_NUMBERS = 1 << 13, 1 << 24
"""Upper limits on the length of the longest feed, and on how many numbers the outputs have on it. The memory of attention grows
with the square of the length, that of scores over a vocabulary with the number of outputs."""
PADDED = 256
"""Positions of the longest feed with padding, beyond twice the largest window."""
FINDING_REACH = "finding the longest texts that can be run"
"""What the progress display says while `find_reach` runs."""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reach:
    """The length of the longest feed, and why it is no longer."""

    tokens: int
    """The length of the longest feed."""
    limit: int | None = None
    """The longest text that the model takes, or None if nothing in it sets a limit."""
    window: int | None = None
    """If attention is local, how many positions a token sees to either side, at most."""
    is_hurried: bool = False
    """Whether a longer feed would take too much time or memory."""
    failed: int | None = None
    """The shortest length on which ONNX Runtime could not run the source."""
    no_texts: str = ""
    """Why no length was tried, if there is no input of texts."""
    waveform: Medium | None = None
    """The waveform whose frames are counted in place of tokens, if there is one."""

    @property
    def unit(self) -> str:
        return "texts" if self.waveform is None else "clips"

    def __str__(self) -> str:
        if self.no_texts:
            return self.no_texts
        end = ", the longest that the model takes" if self.tokens == self.limit else ""
        return f"compared on {self.unit} of up to {describe_length(self.tokens, self.waveform)}{end}"

    @property
    def not_checked(self) -> list[str]:
        """A sentence about longer texts, if the model may take them."""
        if self.tokens == self.limit or self.no_texts:
            return []
        longer = f"{self.unit} longer than {describe_length(self.tokens, self.waveform)}"
        if self.failed is not None:
            return [f"{longer}: ONNX Runtime cannot run the source on {describe_length(self.failed, self.waveform)}"]
        if self.is_hurried:
            return [f"{longer}: running them would take too much time or memory here; --full does it"]
        return [f"{longer}: the model sets no limit"]


def find_reach(source: Model, generator: FeedGenerator, run: Callable[[Values], Any], full: bool = False) -> Reach:
    """Find how long the feeds of ``generator`` can be for ``source``. ``run`` runs the source on a feed.

    ``full`` sets no limit on time and memory. Raises what ``run`` raises if it cannot run even one token.
    """
    if not generator.generate(make_mask([1]), seed=0):
        return Reach(generator.longest, no_texts="the model has no inputs, so every run of it is the same")
    if not generator.has_texts:
        what = f"{generator.unit}s have one size" if generator.media else "no input holds texts in its rows"
        return Reach(generator.longest, no_texts=f"{what}, so only the number of rows varied")
    waveform = generator.waveform
    if generator.fixed_sequence is not None:
        return Reach(generator.fixed_sequence, generator.fixed_sequence, waveform=waveform)
    trial = _Trial(generator, run)
    short = trial.find_short_length()
    window, table = find_largest_window(source), generator.tables.positions
    if trial.failed is not None:
        return Reach(short, None, window, failed=trial.failed, waveform=waveform)
    ends = table is not None
    if table is not None and (full or trial.limit_cost(table + 1, short) > table):
        ends = not trial.can_run(table + 1)  # a table that does not end there is not a position table
        trial.failed = None
    limit = min((one for one in (table if ends else None, generator.max_length) if one is not None), default=None)
    goal = limit or (max(UNLIMITED, 2 * (window or 0) + 1) if waveform is None else LONGEST_CLIP)
    tokens = goal if full else trial.limit_cost(goal, short)
    lengths = _list_lengths(tokens, generator.tables.longest, short)
    length = next((one for one in lengths if trial.can_run(one)), short)
    if ends and length == generator.tables.longest and tokens == table:
        limit = length
    return Reach(length, limit, window, tokens < goal, trial.failed if length != limit else None, waveform=waveform)


@dataclass
class _Trial:
    """Runs single rows of any length, and measures the last run."""

    generator: FeedGenerator
    run: Callable[[Values], Any]
    failed: int | None = None
    seconds: float = 0.0
    numbers: int = 0
    """How many numbers the outputs of the last run have."""

    def find_short_length(self) -> int:
        """Return the length of the usual feeds, halved until the source can run it."""
        tokens = self.generator.longest
        while tokens > 1 and not self.can_run(tokens):
            tokens //= 2
        self._measure(tokens)  # a first run prepares memory
        return tokens

    def can_run(self, tokens: int) -> bool:
        """Return whether the source can run one row of ``tokens`` tokens."""
        try:
            self._measure(tokens)
        except UnsupportedModelError:
            self.failed = min(tokens, self.failed or tokens)
            return False
        return True

    def limit_cost(self, goal: int, short: int) -> int:
        """Return ``goal``, halved until the run is predicted to stay within `SECONDS`, `MOST_NUMBERS` and `MOST_TOKENS`."""
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
        (mask, *_) = self.generator.sizes.split_into_batches(make_mask([tokens]))
        feed = self.generator.generate(mask, seed=0)
        start = time.perf_counter()
        outputs = self.run(feed)
        self.seconds = time.perf_counter() - start
        self.numbers = sum(int(np.size(getattr(one, "values", one))) for one in outputs.values())


@dataclass
class CachedRun:
    """Runs feeds and keeps the result of the longest one: `find_reach` needs it, and the proof needs it again."""

    run: Callable[[Values], Any]
    feed: Values | None = None
    result: Any = None

    def __call__(self, feed: Values) -> Any:
        kept = self.feed
        if kept is not None and kept.keys() == feed.keys() and all(np.array_equal(feed[name], kept[name]) for name in feed):
            return self.result
        result = self.run(feed)
        if kept is None or _largest_size(feed) > _largest_size(kept):
            self.feed, self.result = feed, result
        return result


def _largest_size(feed: Values) -> int:
    return max((array.size for array in feed.values()), default=0)


def extend_to_reach(generator: FeedGenerator, reach: Reach) -> FeedGenerator:
    """Return ``generator`` with feeds as long as ``reach`` allows."""
    if reach.tokens <= generator.longest:
        is_unchanged = reach.tokens == generator.longest or reach.failed is None
        return generator if is_unchanged else replace(generator, max_length=reach.tokens)
    return replace(generator, reach=(reach.tokens, min(reach.tokens, max(PADDED, 2 * (reach.window or 0) + PADDED))))


def _list_lengths(tokens: int, table: int | None, short: int) -> list[int]:
    """Return the lengths to try, the longest first. A table may keep its first rows for padding, so its end is one of them."""
    halves = [tokens >> times for times in range(tokens.bit_length())]
    tried = [tokens, *([table] if table is not None and table < tokens else []), *halves[1:]]
    return [length for length in tried if length > short]
