"""Compare arrays so that nothing passes by accident: no empty or missing array, wrong shape, infinite tolerance or NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from graphsurgery.compare.vectors import compare_vectors
from graphsurgery.report import Comparison

Array = np.ndarray
ABSENT = np.empty(0)
"""Stands for an output that the model did not give. It agrees with nothing."""
AT_ONCE = 1 << 20
"""The number of elements that are compared at once, so that scores over a vocabulary are not in memory several times over."""
MOST_BEYOND = 100.0
"""Upper limit on how far the tolerance may be widened, as a multiple of the promised one. A row that needs more is not checked,
however close it is."""


@dataclass
class Tally:
    """Gathers the rows of one kind of feed into a `Comparison`."""

    kind: str
    least_cosine: float | None = None
    """The smallest allowed cosine between two rows, besides the tolerance of each element."""
    most_stretch: float | None = None
    """The largest allowed relative difference between the lengths of two rows, besides the other two limits."""
    _worst: float = 0.0
    _margin: float = 0.0
    _cosines: list[float] = field(default_factory=list)
    _stretches: list[float] = field(default_factory=list)
    _cases: int = 0
    _not_finite: int = 0
    _skipped: int = 0
    _too_loose: int = 0
    _beyond: float = 1.0

    def add(self, found: Array, expected: Array, tolerance: Array, promised: Array | float | None = None) -> None:
        """Compare the rows of ``found`` with those of ``expected``.

        Each element may differ by ``tolerance``. ``promised`` (None: the same) is the tolerance that would hold if float32 were
        exact enough. Both broadcast against the elements. Three kinds of rows do not count as cases: rows whose elements all
        have an infinite tolerance, rows whose expected values are not finite themselves (NaN never agrees with NaN), and rows
        whose tolerance is more than `MOST_BEYOND` times the promised one. A row of the last kind still fails if it differs by
        more than its tolerance.
        """
        found64, expected64 = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if found64.shape != expected64.shape:
            self._cases += max(len(np.atleast_1d(expected64)), 1)
            self._margin = self._worst = np.inf
            return
        own = tolerance if promised is None else promised
        limits, bases = (np.broadcast_to(np.asarray(one, dtype=np.float64), expected64.shape) for one in (tolerance, own))
        every = [np.atleast_1d(one) for one in (found64, expected64, limits, bases)]
        size = math.prod(every[0].shape[1:])
        step = max(AT_ONCE // max(size, 1), 1)
        for start in range(0, len(every[0]), step):
            some = [one[start : start + step] for one in every]
            self._add_rows(*(one.reshape(len(one), size) for one in some))

    def _add_rows(self, got: Array, want: Array, limit: Array, base: Array) -> None:
        """Compare rows ``[n, elements]``."""
        if not want.shape[1]:
            self._skipped += len(want)
            return
        limit, base = _drop_copies(limit), _drop_copies(base)
        counts, is_finite = limit != np.inf, np.isfinite(want)
        sound = (is_finite | ~counts).all(axis=1)
        self._skipped += int((~sound).sum())
        self._not_finite += int((~np.isfinite(got) & is_finite)[sound].sum())
        rows = sound & counts.any(axis=1)
        if not rows.all():
            got, want, limit, base, counts = (one[rows] for one in (got, want, limit, base, counts))
        if not len(got):
            return
        self._count(limit, base, counts)
        if not counts.all():
            got, want = (np.where(counts, one, 0.0) for one in (got, want))
        finite = np.isfinite(got).all(axis=1)
        if not finite.all():
            self._worst = self._margin = np.inf
            got, want, limit = got[finite], want[finite], limit[finite]
        self._compare(got, want, limit)

    def _count(self, limit: Array, base: Array, counts: Array) -> None:
        """Count rows as cases, and those whose tolerance is too wide."""
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = np.where(counts & (limit > base), limit / base, 1.0).max(axis=1)
        too_loose = beyond > MOST_BEYOND
        self._too_loose += int(too_loose.sum())
        self._cases += int((~too_loose).sum())
        self._beyond = max(self._beyond, float(beyond[~too_loose].max(initial=1.0)))

    def _compare(self, got: Array, want: Array, limit: Array) -> None:
        """Compare rows of finite numbers. Elements without a limit are zero on both sides."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            difference = np.abs(got - want)
            margin = difference / limit
        if not (limit > 0).all():  # a tolerance that is 0, NaN or negative allows nothing
            margin = np.where(difference == 0, 0.0, np.where(limit > 0, margin, np.inf))
        self._worst = max(self._worst, float(difference.max(initial=0)))
        self._margin = max(self._margin, float(margin.max(initial=0)))
        cosines, stretches = compare_vectors(got, want)
        has_angle = ~np.isnan(cosines)
        if has_angle.any():
            self._cosines.append(float(cosines[has_angle].min()))
            self._stretches.append(float(stretches[has_angle].max()))

    def summarize(self) -> Comparison:
        """Return the comparison of all rows."""
        return Comparison(
            self.kind, self._cases, self._worst, self._margin, min(self._cosines, default=None), self._not_finite,
            self.least_cosine, self._skipped, self._beyond, max(self._stretches, default=None), self.most_stretch,
            self._too_loose,
        )  # fmt: skip


def _drop_copies(rows: Array) -> Array:
    """Return the first column of ``rows [n, elements]`` if broadcasting made the others from it, ``[n, 1]``; else ``rows``."""
    return rows if rows.strides[1] else rows[:, :1]
