"""Compare the speed of a file before and after, on this machine. Both run in turns, on the same feeds, with equal threads.

There is one statistic: the median time of each file, and their ratio. Each pair of runs has a ratio, too. The middle half of
these tells whether the ratio means anything: if it scatters, the machine did other things between the runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np

from graphsurgery.progress import Progress, count_parts, ignore_progress
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.other_work import Moment, count_busy_processors
from graphsurgery.runtime.session import Session

SHAPES = ((1, 16), (8, 32), (32, 64))
"""The number of texts and the tokens of each: a query, a few passages, a batch to index."""
LEAST, MOST, SECONDS = 5, 101, 1.0
"""The pairs of runs for one shape: at least, at most, and until this time is over."""
CHANCE = 0.05
"""A smaller relative difference, faster or slower, counts as noise, because the machine does other things, too."""
WIDE = 1.25
"""If the middle half of the pairs' ratios is wider than this, the machine did other things between the runs."""
BUSY = "not judged: the machine was busy"
TEXT = "text"
COLUMNS = {TEXT: "tokens", "clip": "frames"}
"""The word for the columns of a batch, by the word for its rows. Pictures and spectrograms have no columns."""
NOTEWORTHY = 0.1
"""Other programs are mentioned if they keep at least this many processors busy."""


@dataclass(frozen=True)
class Timing:
    """The seconds that both files took on one shape of feed, run one right after the other: pairs (before, after)."""

    texts: int
    tokens: int
    pairs: tuple[tuple[float, float], ...]
    fill: float = 1.0
    """The share of positions that hold tokens."""
    unit: str = TEXT
    """What a row is: `FeedGenerator.unit`."""

    @property
    def before(self) -> float:
        """Median milliseconds of the old file."""
        return median(one for one, _ in self.pairs) * 1000

    @property
    def after(self) -> float:
        """Median milliseconds of the new file."""
        return median(other for _, other in self.pairs) * 1000

    @property
    def ratio(self) -> float:
        """How many times faster the new file is: the ratio of both median times."""
        return self.before / self.after

    @property
    def middle_half(self) -> tuple[float, float]:
        """The quartiles of the ratios of single pairs. Half of the pairs lie between them."""
        low, _, high = quantiles((one / other for one, other in self.pairs), method="inclusive")
        return low, high

    @property
    def helped(self) -> bool | None:
        """Whether the new file is faster; False if it is slower.

        None if the timing `is_unjudged`, if the difference is small, or if a quarter of the pairs say otherwise.
        """
        low, high = self.middle_half
        if self.is_unjudged:
            return None
        if low > 1 and self.ratio > 1 + CHANCE:
            return True
        return False if high < 1 and self.ratio < 1 - CHANCE else None

    @property
    def is_unjudged(self) -> bool:
        """Whether the pairs scatter so far that neither a difference nor its lack means anything.

        However wide the middle half is, it can be judged if all of it is far from 1.
        """
        low, high = self.middle_half
        scatters = high > WIDE * low or not low <= self.ratio <= high
        return scatters and low < WIDE and high > 1 / WIDE

    def __str__(self) -> str:
        return f"{self.ratio:.2f}x at {describe_batch(self.texts, self.tokens, self.fill, self.unit)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts, "tokens": self.tokens, "fill": self.fill, "before_ms": self.before, "after_ms": self.after,
            "ratio": self.ratio, "middle_half": list(self.middle_half), "helped": self.helped, "judged": not self.is_unjudged,
            "pairs": len(self.pairs),
        }  # fmt: skip


def describe_batch(rows: int, columns: int, fill: float, unit: str = TEXT) -> str:
    """Describe a batch by its numbers of rows and columns: of texts and tokens, of clips and frames, or of pictures."""
    if unit not in COLUMNS:
        return f"{rows} {unit}{'s' * (rows != 1)}"
    return f"{rows} x {columns} {COLUMNS[unit]}" + (f", {fill:.0%} full" if fill < 1 else "")


@dataclass(frozen=True)
class Timings:
    """The timings of every shape, measured in one go."""

    shapes: tuple[Timing, ...]
    elsewhere: bool = False
    """Whether the new file is meant for another device than this CPU."""
    others: float | None = None
    """How many processors other programs kept busy meanwhile; None if the system does not tell."""

    @property
    def helped(self) -> bool | None:
        """True if the new file is faster at some shape and slower at none, False the other way round, None otherwise."""
        answers = {one.helped for one in self.shapes} - {None}
        return answers.pop() if len(answers) == 1 else None

    def __str__(self) -> str:
        judged = self._describe_judged()
        unjudged = ", ".join(str(one) for one in self.shapes if one.is_unjudged)
        return "; ".join(filter(None, (judged, f"{BUSY} ({unjudged})" if unjudged else "")))

    def _describe_judged(self) -> str:
        """Say where the new file is faster and where not, and what follows from that. Empty if nothing could be judged."""
        words = {True: "faster", None: "no faster", False: "slower" if self.elsewhere else "SLOWER"}
        judged = [one for one in self.shapes if not one.is_unjudged]
        shapes = {word: [str(one) for one in judged if one.helped is helped] for helped, word in words.items()}
        found = {word: ", ".join(those) for word, those in shapes.items() if those}
        if not found:
            return ""
        where = " on this CPU, which it is not meant for" if self.elsewhere else " here"
        first, *others = found
        said = ", ".join([f"{first}{where} ({found[first]})", *(f"{word} ({found[word]})" for word in others)])
        if words[False] not in found or self.elsewhere:
            return said
        keep = words[True] not in found and len(judged) == len(self.shapes)
        return f"{said}: {'keep the file it was made from' if keep else 'time it on texts of your own'}"

    def describe_load(self) -> str:
        """Say how many processors other programs kept busy meanwhile. Empty if these were none, or if it is not known."""
        if self.others is None or self.others < NOTEWORTHY:
            return ""
        return f"meanwhile, other programs kept {self.others:.1f} of {os.cpu_count()} processors busy"

    def to_json(self) -> dict[str, Any]:
        shapes = [one.to_json() for one in self.shapes]
        return {"helped": self.helped, "others_busy": self.others, "processors": os.cpu_count(), "shapes": shapes}


def measure_times(
    before: Session, after: Session, generator: FeedGenerator, elsewhere: bool = False, progress: Progress = ignore_progress
) -> Timings:
    """Time both files on each of the `SHAPES` that they take."""
    sizes = generator.sizes
    shapes = dict.fromkeys((sizes.batch or texts, sizes.fit_width(tokens)) for texts, tokens in SHAPES)
    feeds = {shape: generator.generate(np.ones(shape, bool), seed=0) for shape in shapes}
    start = Moment.now()
    counted = count_parts(feeds.items(), len(feeds), progress, "timing both files")
    timed = tuple(_time_shape(before, after, feed, *shape, generator.unit) for shape, feed in counted)
    return Timings(timed, elsewhere, count_busy_processors(start, Moment.now()))


def _time_shape(before: Session, after: Session, feed: dict[str, np.ndarray], texts: int, tokens: int, unit: str) -> Timing:
    rounds = race([lambda: before.run(feed), lambda: after.run(feed)])
    return Timing(texts, tokens, tuple((first, second) for first, second in rounds), unit=unit)


def race(runs: Sequence[Callable[[], object]], seconds: float = SECONDS) -> list[list[float]]:
    """Call all ``runs`` in turn, round after round, and return the seconds that each took in each round.

    Each is called once first, which does not count. Then at least `LEAST` rounds follow, until ``seconds`` are over or `MOST`
    rounds are done. The result has one list for each round.
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
