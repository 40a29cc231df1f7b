"""The times of a file before and after, on this machine: both are run in turns, on the same feeds and with as many threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np

from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import Session

SHAPES = ((1, 16), (8, 32), (32, 64))
"""The number of texts and the tokens of each: a query, a few passages, a batch to index."""
LEAST, MOST, SECONDS = 3, 101, 1.0
"""The pairs of runs for one shape: at least, at most, and until this time is over."""
CHANCE = 0.05
"""A smaller difference, up or down, is noise on a machine that does other things, too."""
BUSY = 1.25
"""If the quartiles of the speed-up are further apart than this, the machine did other things between the runs."""


@dataclass(frozen=True)
class Timing:
    """The seconds that both files took on one shape of feed, run one right after the other: pairs (before, after)."""

    texts: int
    tokens: int
    pairs: tuple[tuple[float, float], ...]
    fill: float = 1.0
    """The share of positions that hold tokens."""

    @property
    def before(self) -> float:
        """Median milliseconds of the old file."""
        return median(one for one, _ in self.pairs) * 1000

    @property
    def after(self) -> float:
        """Median milliseconds of the new file."""
        return median(other for _, other in self.pairs) * 1000

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The quartiles of the speed-up over all pairs: how many times faster the new file is."""
        low, middle, high = quantiles((one / other for one, other in self.pairs), method="inclusive")
        return low, middle, high

    @property
    def ratio(self) -> float:
        """The median speed-up over all pairs."""
        return self.quartiles[1]

    @property
    def helped(self) -> bool | None:
        """Whether the new file is faster; None if the difference is small, or if a quarter of the pairs say otherwise."""
        low, middle, high = self.quartiles
        if low > 1 and middle > 1 + CHANCE:
            return True
        return False if high < 1 and middle < 1 - CHANCE else None

    @property
    def scatters(self) -> bool:
        """Whether the pairs are so far apart that no difference does not mean that there is none."""
        low, _, high = self.quartiles
        return high > BUSY * low

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x at {describe_batch(self.texts, self.tokens, self.fill)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts, "tokens": self.tokens, "fill": self.fill, "before_ms": self.before, "after_ms": self.after,
            "ratio": self.ratio, "quartiles": list(self.quartiles), "helped": self.helped, "pairs": len(self.pairs),
        }  # fmt: skip


def describe_batch(texts: int, tokens: int, fill: float) -> str:
    return f"{texts} x {tokens} tokens" + (f", {fill:.0%} full" if fill < 1 else "")


@dataclass(frozen=True)
class Timings:
    """The timings of every shape, measured in one go."""

    shapes: tuple[Timing, ...]
    elsewhere: bool = False
    """Whether the new file is meant for another device than this CPU."""

    @property
    def helped(self) -> bool | None:
        """Whether the new file is faster at some shape and slower at none; False the other way round; None otherwise."""
        answers = {one.helped for one in self.shapes} - {None}
        return answers.pop() if len(answers) == 1 else None

    def __str__(self) -> str:
        words = {True: "faster", None: "no faster", False: "slower" if self.elsewhere else "SLOWER"}
        shapes = {word: [str(one) for one in self.shapes if one.helped is helped] for helped, word in words.items()}
        found = {word: ", ".join(those) for word, those in shapes.items() if those}
        where = " on this CPU, which it is not meant for" if self.elsewhere else " here"
        first, *others = found
        said = ", ".join([f"{first}{where} ({found[first]})", *(f"{word} ({found[word]})" for word in others)])
        if words[False] not in found or self.elsewhere:
            return said
        return f"{said}: {'time it on texts of your own' if words[True] in found else 'keep the file it was made from'}"

    def to_json(self) -> dict[str, Any]:
        return {"helped": self.helped, "shapes": [one.to_json() for one in self.shapes]}


def measure_times(before: Session, after: Session, generator: FeedGenerator, elsewhere: bool = False) -> Timings:
    """Time both files on each of the `SHAPES` that they take."""
    sizes = generator.sizes
    shapes = dict.fromkeys((sizes.batch or texts, sizes.fit_width(tokens)) for texts, tokens in SHAPES)
    feeds = {shape: generator.generate(np.ones(shape, bool), seed=0) for shape in shapes}
    return Timings(tuple(_time_shape(before, after, feed, *shape) for shape, feed in feeds.items()), elsewhere)


def _time_shape(before: Session, after: Session, feed: dict[str, np.ndarray], texts: int, tokens: int) -> Timing:
    rounds = race([lambda: before.run(feed), lambda: after.run(feed)])
    return Timing(texts, tokens, tuple((first, second) for first, second in rounds))


def race(runs: Sequence[Callable[[], object]], seconds: float = SECONDS) -> list[list[float]]:
    """Call all ``runs`` in turn, round after round, and return the seconds that each took in each round.

    There are `LEAST` rounds or more, until ``seconds`` are over or `MOST` rounds are done, after a first call of each that does
    not count.
    """
    for run in runs:
        run()  # the first call prepares memory
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < LEAST or (len(rounds) < MOST and time.perf_counter() - start < seconds):
        turn = -1 if len(rounds) % 2 else 1  # so that nobody always finds another's data in the caches
        rounds.append([_time_call(run) for run in runs[::turn]][::turn])
    return rounds


def _time_call(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
