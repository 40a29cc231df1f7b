"""Statistics of the values of an encoder on calibration texts: ranges by channel, and the moments that rounding needs.

A *channel* is one place of the last axis. Only vectors at tokens count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.compare.vectors import select_vectors
from graphsurgery.errors import RequestError
from graphsurgery.model.model import Model
from graphsurgery.rewrites.rewrite import Feed
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import open_session

MOST_BYTES = 1 << 30
"""The most bytes of moments that are collected in one pass over the texts. There are as many passes as it takes."""


@dataclass
class Sample:
    """The range and the moments of one value ``x [rows, inner]`` on calibration texts."""

    low: np.ndarray
    """The least element of each channel, ``[inner]``."""
    high: np.ndarray
    """The largest element of each channel, ``[inner]``."""
    rows: int
    total: np.ndarray
    """The sum of all rows, ``[inner]`` float64."""
    moments: np.ndarray
    """``x' x``, ``[inner, inner]`` float64."""

    @classmethod
    def of(cls, inner: int) -> Sample:
        return cls(np.full(inner, np.inf), np.full(inner, -np.inf), 0, np.zeros(inner), np.zeros((inner, inner)))

    def add(self, rows: np.ndarray) -> None:
        """Add the vectors ``rows [n, inner]``."""
        self.low, self.high = np.minimum(self.low, rows.min(axis=0)), np.maximum(self.high, rows.max(axis=0))
        self.rows += len(rows)
        self.total += rows.sum(axis=0, dtype=np.float64)
        self.moments += rows.T @ rows

    def center_moments(self, center: np.ndarray) -> np.ndarray:
        """Return ``(x - c)' (x - c)`` for a ``center [inner]``."""
        cross = np.outer(self.total, center)
        return self.moments - cross - cross.T + self.rows * np.outer(center, center)


def sample_values(
    encoder: Model, generator: FeedGenerator, feeds: Sequence[Feed], sizes: dict[str, int]
) -> Iterator[tuple[str, Sample]]:
    """Run ``encoder`` on ``feeds`` and yield a sample of each value. ``sizes`` are the values' names and last dims.

    Raises RequestError if a value has no row, or rows that are not finite.
    """
    for names in _split_by_size(sizes):
        session = open_session(encoder, extra_outputs=names)
        found = {name: Sample.of(sizes[name]) for name in names}
        for feed in feeds:
            mask = generator.find_mask(feed)
            for name, array in session.run(feed, names).items():
                rows = select_vectors(array, mask)
                if rows.size:
                    found[name].add(rows.astype(np.float32, copy=False))
        for name, sample in found.items():
            if not sample.rows or not np.isfinite(sample.moments).all():
                what = "no values" if not sample.rows else "values that are not finite"
                raise RequestError(f"on the calibration texts, {name} has {what}", "calibrate with other texts")
            yield name, sample


def _split_by_size(sizes: dict[str, int]) -> Iterable[list[str]]:
    """Yield the names in parts whose moments take `MOST_BYTES` at most, or one name if its moments take more."""
    part: list[str] = []
    taken = 0
    for name, size in sizes.items():
        if part and taken + 8 * size * size > MOST_BYTES:
            yield part
            part, taken = [], 0
        part.append(name)
        taken += 8 * size * size
    if part:
        yield part
