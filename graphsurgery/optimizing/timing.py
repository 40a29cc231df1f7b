"""How long a file takes before and after, here: runs of both by turns, on the same feeds, with the same number of threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session

SHAPES = ((1, 16), (8, 32), (32, 64))
"""Texts and tokens of each: a query, a few passages, a batch to index."""
ROUNDS, SECONDS = 15, 2.0
"""Runs of each file and seconds, at most, for one shape."""
CHANCE = 0.05
"""Less than this, up or down, is noise on a machine that does other things, too."""


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of one shape of feed."""

    texts: int
    tokens: int
    before: float
    after: float
    rounds: int

    @property
    def ratio(self) -> float:
        """How many times faster the new file is."""
        return self.before / self.after if self.after else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "texts": self.texts, "tokens": self.tokens, "before_ms": self.before, "after_ms": self.after,
            "ratio": self.ratio, "rounds": self.rounds,
        }  # fmt: skip


@dataclass(frozen=True)
class Timings:
    """Every shape, measured in one go."""

    shapes: tuple[Timing, ...]

    @property
    def helped(self) -> bool | None:
        """Whether the new file is faster here; None where the difference is chance."""
        ratio = median(one.ratio for one in self.shapes) if self.shapes else 1.0
        return None if abs(ratio - 1) <= CHANCE else ratio > 1

    def __str__(self) -> str:
        """What to tell of it."""
        ratios = ", ".join(f"{one.ratio:.2f}x at {one.texts} x {one.tokens} tokens" for one in self.shapes)
        said = {True: "faster here", False: "SLOWER here: keep the file it was made from", None: "no faster here"}
        return f"{said[self.helped]} ({ratios})"

    def to_json(self) -> dict[str, Any]:
        return {"helped": self.helped, "shapes": [one.to_json() for one in self.shapes]}


def timed(before: Session, after: Session, drawer: Drawer) -> Timings:
    """Both files on each of `SHAPES` that they take."""
    return Timings(tuple(_timing(before, after, feed, *shape) for shape, feed in _feeds(drawer)))


def _feeds(drawer: Drawer) -> Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]]:
    shapes = dict.fromkeys(drawer.fitted(np.ones((texts, min(tokens, drawer.longest)), bool)).shape for texts, tokens in SHAPES)
    for texts, tokens in shapes:
        yield (texts, tokens), drawer.feed(np.ones((texts, tokens), bool), seed=0)


def _timing(before: Session, after: Session, feed: dict[str, np.ndarray], texts: int, tokens: int) -> Timing:
    seconds: tuple[list[float], list[float]] = ([], [])
    for one in (before, after):
        one.run(feed)  # what is made ready on the first run
    start = time.perf_counter()
    while len(seconds[0]) < ROUNDS and (time.perf_counter() - start < SECONDS or len(seconds[0]) < 3):
        for one, taken in zip((before, after), seconds, strict=True):
            begin = time.perf_counter()
            one.run(feed)
            taken.append(time.perf_counter() - begin)
    return Timing(texts, tokens, median(seconds[0]) * 1000, median(seconds[1]) * 1000, len(seconds[0]))
