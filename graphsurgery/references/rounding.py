"""Rounding errors of float32 in a chain of edits, value by value: an edit may magnify the rounding of the one before it.

Errors are absolute and have the shape of their values. Each edit gives the errors of its ``own`` arithmetic, and those that
the errors of its input have ``grown`` to. If both together are more than the promised tolerance, they take its place: float32
can do no better. The source's own values are exact, so an edit by itself is held to the promised tolerance alone.
"""

from __future__ import annotations

import numpy as np

from graphsurgery.references.reference import Array

EPSILON = 2.0**-23
"""The distance of 1 to the next float32."""
INDEPENDENT = 64
"""Terms up to which the rounding errors of a sum count as independent. Where the sum is far larger than its terms, equal terms
are rounded equally, and their errors add up."""
SPREAD = 4
"""How many times the root of their squares the sum of independent errors may be. Of rounding errors, each spread evenly up to
its bound, it is more once in 10^10 times (Hoeffding's inequality)."""


def estimate_mean_error(terms: int) -> float:
    """How many `EPSILON` of the mean size of its terms a float32 mean of so many may be off: the errors of partial sums, each
    of which is half of one at most, come together as a random walk, in 16 sums at a time."""
    return max(1.0, float(np.sqrt(terms)) / 8)


def magnitude(x: Array) -> Array:
    """Return |x|, and 0 where x is not finite, because nothing is compared there."""
    return np.where(np.isfinite(x), np.abs(x), 0)


def propagate_through_linear(errors: Array, weight: Array) -> Array:
    """Return the errors that ``errors [..., in]`` cause behind a linear layer, ``weight [out, in]`` -> ``[..., out]``. They are
    the sum of all, or less if not all of them can point the same way."""
    return combine_errors(errors @ np.abs(weight).T, np.square(errors) @ np.square(weight).T)


def propagate_through_sum(errors: Array) -> Array:
    """Return the error of a sum, ``[..., 1]``, from those of its terms, ``errors [..., n]``."""
    return combine_errors(np.sum(errors, axis=-1, keepdims=True), np.sum(np.square(errors), axis=-1, keepdims=True))


def combine_errors(sums: Array, squares: Array) -> Array:
    """Return the error of sums, given the sums of their terms' errors and those of the squares of these."""
    return np.minimum(sums, SPREAD * np.sqrt(squares))


def widen_tolerance(promised: Array | float, own: Array, grown: Array) -> Array:
    """Return ``promised``, or in a chain ``own`` rounding plus ``grown`` (the magnified one), if that is more."""
    return np.where(grown > 0, np.maximum(promised, own + grown), promised)
