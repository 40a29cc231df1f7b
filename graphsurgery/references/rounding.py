"""Rounding errors of float32 in a chain of edits, value by value: an edit may magnify the rounding of the one before it.

Errors are absolute and have the shape of their values. Each edit gives the errors of its ``own`` arithmetic, and those that
the errors of its input have ``grown`` to. If both together are more than the promised tolerance, they take its place: float32
can do no better. The source's own values are exact, so an edit by itself is held to the promised tolerance alone.
"""

from __future__ import annotations

import numpy as np

from graphsurgery.references.reference import Array, Expected

EPSILON = 2.0**-23
"""The distance of 1 to the next float32."""
INDEPENDENT = 64
"""Up to this many terms, the rounding errors of a sum count as independent. If the sum is far larger than its terms, equal
terms are rounded equally, and their errors add up."""
SPREAD = 4
"""A sum of independent errors counts as at most this many times the root of their summed squares. Rounding errors that are each
spread evenly up to a bound exceed it once in 10^10 times (Hoeffding's inequality)."""


def estimate_mean_error(terms: int, sums: int = 16) -> float:
    """Return how many `EPSILON` of the mean size of its terms a float32 mean may be off.

    The errors of partial sums, each at most half an `EPSILON`, add up as a random walk, in ``sums`` partial sums side by side.
    ONNX Runtime's ReduceSum is like 16 of them. Its MatMul has at most twice the error, at 64 to 128 terms, which is like 4.
    """
    return max(1.0, float(np.sqrt(terms / sums)) / 2)


def magnitude(x: Array) -> Array:
    """Return |x|, and 0 where x is not finite, because nothing is compared there."""
    return np.where(np.isfinite(x), np.abs(x), 0)


def propagate_through_linear(errors: Array, weight: Array) -> Array:
    """Return the errors after a linear layer that ``errors [..., in]`` cause, ``weight [out, in]`` -> ``[..., out]``.

    They are the sum of all errors, or less if not all of them can point the same way.
    """
    return combine_errors(errors @ np.abs(weight).T, np.square(errors) @ np.square(weight).T)


def propagate_through_sum(errors: Array) -> Array:
    """Return the error of a sum, ``[..., 1]``, from the errors of its terms, ``[..., n]``."""
    return combine_errors(np.sum(errors, axis=-1, keepdims=True), np.sum(np.square(errors), axis=-1, keepdims=True))


def combine_errors(sums: Array, squares: Array) -> Array:
    """Return the error of sums, given the summed errors of their terms and the summed squares of these errors."""
    return np.minimum(sums, SPREAD * np.sqrt(squares))


def expect_rounded(y: Array, promised: Array | float, own: Array, grown: Array) -> Expected:
    """Expect ``y`` to within ``promised``, or in a chain to within ``own`` rounding plus ``grown`` rounding if that is more."""
    rounding = own + grown
    tolerance = np.where(grown > 0, np.maximum(promised, rounding), promised)
    return Expected(y, tolerance, rounding, promised=promised)
