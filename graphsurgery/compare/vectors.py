"""Outputs as vectors: which positions count, and how far two vectors are apart in angle and length."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def select_vectors(values: Array, mask: Array | None, *, per_token: bool = False, empty_rows: bool = True) -> Array:
    """Return the vectors of an output that are compared, ``[n, dim]``.

    If ``values`` are ``[batch, seq, ..., dim]``, these are the vectors at tokens. If they are ``[batch, ..., dim]``, all
    vectors are. Values of rank 0 or 1 are vectors of one number each.

    Args:
        mask: ``[batch, seq]``, true at tokens; None if every position is a token.
        per_token: the values are ``[batch, seq]``, one number per token.
        empty_rows: if false, rows without a token do not count.
    """
    if per_token:
        values = values[..., None]
    if mask is not None and values.shape[:1] == mask.shape[:1]:
        if values.ndim > 2 and values.shape[:2] == mask.shape:
            values = values[mask]
        elif not empty_rows:
            values = values[mask.any(axis=1)]
    if values.ndim < 2:
        return values.reshape(-1, 1)
    return values.reshape(math.prod(values.shape[:-1]), values.shape[-1])


def compute_cosines(one: Array, other: Array) -> Array:
    """Return the cosine between each pair of vectors, ``[n, dim]`` float64 -> ``[n]``.

    It is NaN if both vectors are zero, because they have no angle, and 0 if one of them is.
    """
    return compare_vectors(one, other)[0]


def compute_similarities(one: Array, other: Array) -> Array:
    """Return the cosine between each of ``one [n, dim]`` and each of ``other [m, dim]``, float64, as ``[n, m]``.

    It is 0 where one of them is zero.
    """
    return _scale_to_length_one(one) @ _scale_to_length_one(other).T


def _scale_to_length_one(vectors: Array) -> Array:
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0)
    scaled = vectors / np.where(largest > 0, largest, 1)  # the squares of the largest numbers would overflow
    lengths = np.linalg.norm(scaled, axis=-1, keepdims=True)
    units: Array = scaled / np.where(lengths > 0, lengths, 1)
    return units


def measure_largest_difference(one: Array, other: Array) -> float:
    """Return the largest |x - y| of two arrays of one shape; infinite if a difference is NaN."""
    with np.errstate(invalid="ignore"):  # infinite in both
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))


def compare_vectors(one: Array, other: Array) -> tuple[Array, Array]:
    """Return the cosines of `compute_cosines`, and how far the lengths of each pair of vectors are apart, both ``[n]``.

    The latter is a share of the length of ``other``, and infinite if ``other`` is zero.
    """
    first, second = (np.abs(side).max(axis=-1, initial=0) for side in (one, other))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # the squares of the largest numbers would overflow
        one, other = one / first[:, None], other / second[:, None]
        lengths = [np.sqrt(np.einsum("nd,nd->n", side, side)) for side in (one, other)]
        angles = np.einsum("nd,nd->n", one, other) / (lengths[0] * lengths[1])
        apart = np.abs(lengths[0] / lengths[1] * (first / second) - 1)
    none, some = (first == 0) & (second == 0), (first == 0) | (second == 0)
    cosines = np.where(none, np.nan, np.where(some, 0.0, np.clip(angles, -1, 1)))
    return cosines, np.where(second == 0, np.inf, np.where(first == 0, 1.0, apart))
