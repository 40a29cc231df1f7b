"""Compare arrays so that nothing can pass by accident: no empty, missing, misshapen or not-a-number agreement."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphsurgery.errors import RequestError
from graphsurgery.report import Comparison

Array = np.ndarray
ABSENT = np.empty(0)
"""Stands for an output that was not given: it agrees with nothing."""


@dataclass(frozen=True)
class Limits:
    """What a user asked for: ``atol`` in place of a check's own tolerance, ``min_cosine`` besides it."""

    atol: float | None = None
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        """RequestError for limits that would admit everything or nothing by mistake."""
        if self.atol is not None and not 0 <= self.atol < np.inf:
            raise RequestError(
                f"an absolute tolerance of {self.atol} is no number of 0 or more", "give a tolerance such as 1e-5"
            )
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise RequestError(f"a cosine of {self.min_cosine} is not between -1 and 1", "give a cosine such as 0.999")

    def tolerance(self, own: Array) -> Array:
        return own if self.atol is None else np.array(self.atol)


NO_LIMITS = Limits()
LEAST_COSINE = 0.999
"""Of vectors in half precision to those in float32, unless another is asked for."""
ONE_STEP = float(np.finfo(np.float16).eps)
"""Of float16: what may be lost however small an angle is asked for."""


def longest_apart(cosine: float) -> float:
    """Twice the distance of two vectors of length one at that cosine, ``2 sqrt(2 (1 - cosine))``: the share of its length that
    a vector in half precision may be off, so that one of the right direction and of the wrong length does not pass."""
    return 2 * float(np.sqrt(2 * (1 - cosine))) + ONE_STEP


@dataclass
class Tally:
    """Gathers the cases of one kind of feed into a `Comparison`."""

    kind: str
    least_cosine: float | None = None
    _worst: float = 0.0
    _margin: float = 0.0
    _cosines: list[float] = field(default_factory=list)
    _cases: int = 0
    _not_finite: int = 0
    _skipped: int = 0
    _beyond: float = 1.0

    def add(self, found: Array, expected: Array, tolerance: Array, beyond: float = 1.0) -> None:
        """Compare the rows of ``found`` with those of ``expected``; each element may differ by ``tolerance``, which broadcasts
        and is up to ``beyond`` times what was promised.

        Rows whose expected values are not finite themselves are counted as skipped: NaN never agrees with NaN.
        """
        self._beyond = max(self._beyond, beyond)
        found64, expected64 = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if found64.shape != expected64.shape:
            self._cases += max(len(np.atleast_1d(expected64)), 1)
            self._margin = self._worst = np.inf
            return
        allowed = np.broadcast_to(np.asarray(tolerance, dtype=np.float64), expected64.shape)
        found64, expected64, allowed = np.atleast_1d(found64, expected64, allowed)
        for row, (got, want) in enumerate(zip(found64, expected64, strict=True)):
            if not want.size or not np.isfinite(want).all():
                self._skipped += 1
                continue
            self._add_row(got, want, allowed[row])

    def _add_row(self, got: Array, want: Array, limit: Array) -> None:
        self._cases += 1
        broken = int(np.sum(~np.isfinite(got)))
        self._not_finite += broken
        if broken:
            self._worst = self._margin = np.inf
            return
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            difference = np.abs(got - want)
            margin = np.where(limit > 0, difference / limit, np.inf)  # a tolerance that is NaN or negative admits nothing
        self._worst = max(self._worst, float(difference.max()))
        self._margin = max(self._margin, float(np.where(difference == 0, 0.0, margin).max()))
        cosine = cosine_of(got.ravel(), want.ravel())
        if cosine is not None:
            self._cosines.append(cosine)

    def result(self) -> Comparison:
        return Comparison(
            self.kind, self._cases, self._worst, self._margin, min(self._cosines, default=None),
            self._not_finite, self.least_cosine, self._skipped, self._beyond,
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
