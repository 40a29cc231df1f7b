"""How far a model's output may be from another's.

In float32, each vector may be off by 1e-6 if its length is one and by 1e-5 x max(1, max|x|) otherwise. A head may magnify the
rounding of an encoder. So if that is not enough, four times the source's own rounding in that very vector is added: the
difference between two runs of the source in ONNX Runtime, with and without graph optimisations. Integers and booleans must be
equal.

In half precision, and wherever a smallest cosine takes the place of these limits, each vector is judged by its angle and its
length, and each element by a share of the vector's largest one. An angle with the cosine c leaves a distance of
sqrt(2 (1 - c)) between vectors of length one, so the length and the elements may be off by shares of that size. The
angle of one or two numbers says little, so each is compared with the spread of its column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.errors import RequestError, require_value

LEAST_COSINE = 0.999
"""The smallest cosine between vectors in half precision and those in float32, unless another is asked for."""
FLOAT32, LOSSY = "float32", "lossy"
"""How far a rewritten model may be off: by float32's rounding (`allow_rounding`), or by angle and length (`allow_loss`)."""
RELATIVE, UNIT = 1e-5, 1e-6
NOISE = 4
"""The allowance for the source's own rounding, as a multiple of it."""
ALMOST_ONE = 1e-4
"""A vector counts as one of length one if its length is off by less than this."""
NARROW = 2
"""Vectors of up to this many numbers are compared number by number."""
ONE_STEP = float(np.finfo(np.float16).eps)
"""One step of float16. This much may be lost however small an angle is asked for."""
Array = np.ndarray


@dataclass(frozen=True)
class Limits:
    """The limits that a user asked for."""

    atol: float | None = None
    """The allowed absolute difference, in place of a check's own tolerance."""
    min_cosine: float | None = None
    """The smallest allowed cosine, besides the tolerance."""

    def __post_init__(self) -> None:
        """Raise RequestError for limits that would admit everything or nothing by mistake."""
        if self.atol is not None and not 0 <= self.atol < np.inf:
            raise RequestError(f"the absolute tolerance must be 0 or more, got {self.atol}", "give a tolerance such as 1e-5")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise RequestError(f"--min-cosine must be between -1 and 1, got {self.min_cosine}", "give a cosine such as 0.999")

    def choose_tolerance(self, own: Array) -> Array:
        """Return ``atol`` if it was asked for, else the check's ``own`` tolerance."""
        return own if self.atol is None else np.array(self.atol)


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Tolerance:
    """The tolerance of vectors ``[n, dim]``: of each element, and of each vector's angle and length if these count."""

    elements: Array
    promised: Array
    least_cosine: float | None = None
    most_stretch: float | None = None


def allow_rounding(values: Array, noise: Array | None, limits: Limits) -> Tolerance:
    """Return the tolerance of vectors ``values [n, dim]`` in float32. ``noise [n, 1]`` is the source's own rounding in them."""
    own = compute_float32_tolerance(values)
    allowed = own if noise is None else own + NOISE * noise
    return Tolerance(limits.choose_tolerance(allowed), limits.choose_tolerance(own), limits.min_cosine)


def allow_loss(values: Array, spread: Array, limits: Limits) -> Tolerance:
    """Return the tolerance of vectors ``values [n, dim]`` that may be off by the angle of ``limits.min_cosine``.

    ``spread [dim]`` is the standard deviation of each column over all feeds.
    """
    if values.dtype.kind in "biu":
        return Tolerance(compute_float32_tolerance(values), compute_float32_tolerance(values))
    cosine = require_value(limits.min_cosine, "the smallest cosine")
    narrow = values.shape[-1] <= NARROW
    scale = np.where(spread > 0, spread, find_largest(values)) if narrow else find_largest(values)
    allowed = limits.choose_tolerance(2 * compute_stretch_limit(cosine) * scale)
    if narrow:
        return Tolerance(allowed, allowed)
    return Tolerance(allowed, allowed, cosine, compute_stretch_limit(cosine) if limits.atol is None else None)


def compute_stretch_limit(cosine: float) -> float:
    """Return how far the length of a vector may be off, as a share of it, if its angle may be off by ``cosine``."""
    return float(np.sqrt(2 * (1 - cosine))) + ONE_STEP


def compute_float32_tolerance(values: Array) -> Array:
    """Return how far each vector of ``values [n, dim]`` may be off in float32, ``[n, 1]``."""
    if values.dtype.kind in "biu":
        return np.zeros((len(values), 1))
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    length = np.sqrt(np.square(finite).sum(axis=-1, keepdims=True))
    return np.where(np.abs(length - 1) < ALMOST_ONE, UNIT, RELATIVE * np.maximum(1, find_largest(values)))


def find_largest(values: Array) -> Array:
    """Return the largest finite |x| of each vector, ``[n, 1]``."""
    return np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64)).max(axis=-1, keepdims=True, initial=0)


def compute_spread(arrays: Sequence[Array]) -> Array:
    """Return the standard deviation of each column over all vectors of ``arrays``, each ``[n, dim]``: ``[dim]``."""
    whole = np.concatenate(arrays).astype(np.float64)
    return np.array([float(column[np.isfinite(column)].std()) if np.isfinite(column).any() else 0.0 for column in whole.T])
