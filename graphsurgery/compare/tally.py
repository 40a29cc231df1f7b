"""Compare arrays so that nothing can pass by accident: no empty, missing, misshapen, unlimited or not-a-number agreement."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphsurgery.report import Comparison

Array = np.ndarray
ABSENT = np.empty(0)
"""Stands for an output that was not given: it agrees with nothing."""
MOST_BEYOND = 100.0
"""How many times the promised tolerance at most: a row that needs more is not checked, however close it is."""


@dataclass
class Tally:
    """Gathers the rows of one kind of feed into a `Comparison`. ``least_cosine`` and ``most_stretch`` are asked for besides the
    tolerance of each element: the smallest cosine, and the largest relative difference of a row's length."""

    kind: str
    least_cosine: float | None = None
    most_stretch: float | None = None
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

        Each element may differ by ``tolerance``; ``promised`` (the same when None) is what the tolerance would be if float32
        could keep to it. Both broadcast against the elements. Three kinds of rows are no cases that could pass: rows whose
        elements all have an infinite tolerance, rows whose expected values are not finite themselves (NaN never agrees with
        NaN), and rows whose tolerance is more than `MOST_BEYOND` times the promised one. In the last kind, too, a difference
        beyond the tolerance fails.
        """
        found64, expected64 = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if found64.shape != expected64.shape:
            self._cases += max(len(np.atleast_1d(expected64)), 1)
            self._margin = self._worst = np.inf
            return
        own = tolerance if promised is None else promised
        limits, bases = (np.broadcast_to(np.asarray(one, dtype=np.float64), expected64.shape) for one in (tolerance, own))
        for row in zip(*np.atleast_1d(found64, expected64, limits, bases), strict=True):
            self._add_row(*map(np.atleast_1d, row))

    def _add_row(self, got: Array, want: Array, limit: Array, base: Array) -> None:
        counts = limit != np.inf
        if not want.size or not np.isfinite(want[counts]).all():
            self._skipped += 1
            return
        self._not_finite += int(np.sum(~np.isfinite(got) & np.isfinite(want)))
        if not counts.any():
            return
        got, want, limit, base = got[counts], want[counts], limit[counts], base[counts]
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = float(np.max(np.where(limit > base, limit / base, 1.0)))
        if beyond > MOST_BEYOND:
            self._too_loose += 1
        else:
            self._cases += 1
            self._beyond = max(self._beyond, beyond)
        self._compare(got, want, limit)

    def _compare(self, got: Array, want: Array, limit: Array) -> None:
        if not np.isfinite(got).all():
            self._worst = self._margin = np.inf
            return
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            difference = np.abs(got - want)
            margin = np.where(limit > 0, difference / limit, np.inf)  # a tolerance that is NaN or negative admits nothing
        self._worst = max(self._worst, float(difference.max()))
        self._margin = max(self._margin, float(np.where(difference == 0, 0.0, margin).max()))
        cosine = cosine_of(got, want)
        if cosine is not None:
            self._cosines.append(cosine)
            self._stretches.append(stretch_of(got, want))

    def result(self) -> Comparison:
        """What the rows came to."""
        return Comparison(
            self.kind, self._cases, self._worst, self._margin, min(self._cosines, default=None), self._not_finite,
            self.least_cosine, self._skipped, self._beyond, max(self._stretches, default=None), self.most_stretch,
            self._too_loose,
        )  # fmt: skip


def cosine_of(one: Array, other: Array) -> float | None:
    """The cosine between two vectors; None when both are zero (they agree, at no angle), 0 when only one is."""
    first, second = float(np.max(np.abs(one))), float(np.max(np.abs(other)))
    if first == 0 and second == 0:
        return None
    if first == 0 or second == 0:
        return 0.0
    one, other = one / first, other / second  # squares of what is as large as float64 allows would overflow
    return float(np.clip(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)), -1, 1))


def stretch_of(one: Array, other: Array) -> float:
    """How far the length of ``one`` is from that of ``other``, as a share of the latter; infinite where ``other`` is zero."""
    scale = float(np.max(np.abs(other)))
    if scale == 0:
        return np.inf
    with np.errstate(over="ignore"):
        return float(abs(np.linalg.norm(one / scale) / np.linalg.norm(other / scale) - 1))
