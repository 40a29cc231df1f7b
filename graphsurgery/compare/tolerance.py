"""How far a model's output may be from another's.

In float32: 1e-6 for vectors of length one and 1e-5 x max(1, max|x|) otherwise, for each vector. Where that is not enough, four
times what the source itself rounds in that very vector is added, as ONNX Runtime shows by running it with its graph
optimisations and without: a head may magnify what an encoder rounds. Integers and booleans are equal.

In half precision, and wherever a smallest cosine takes the place of these: each vector by its angle and its length, and each
element by a share of the vector's largest one. An angle c leaves open a distance of sqrt(2 (1 - c)) between vectors of length
one, so that length and elements may be off by shares that go with it. One or two numbers per vector have no telling angle: each
is compared with how far its column is spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.errors import RequestError, require_value

LEAST_COSINE = 0.999
"""The smallest cosine between vectors in half precision and those in float32, unless another is asked for."""


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
            raise RequestError(f"--min-cosine must be between -1 and 1, got {self.min_cosine}", "give a cosine such as 0.999")

    def choose_tolerance(self, own: Array) -> Array:
        """``atol`` where it was asked for, else the check's ``own`` tolerance."""
        return own if self.atol is None else np.array(self.atol)


NO_LIMITS = Limits()


FLOAT32, LOSSY = "float32", "lossy"
"""How far a rewritten model may be off: as much as float32 rounds (`exact`), or by an angle and a length (`lossy`)."""
RELATIVE, UNIT = 1e-5, 1e-6
NOISE = 4
"""How many times its own rounding the source leaves open."""
ALMOST_ONE = 1e-4
"""How far the length of a vector may be from one that is meant to be of length one."""
NARROW = 2
"""Numbers of a vector up to which each is compared by itself."""
ONE_STEP = float(np.finfo(np.float16).eps)
"""Of float16: what may be lost however small an angle is asked for."""
Array = np.ndarray


@dataclass(frozen=True)
class Tolerance:
    """What is allowed in vectors ``[n, dim]``: for each element, and of each vector's angle and length where these count."""

    elements: Array
    promised: Array
    least_cosine: float | None = None
    most_stretch: float | None = None


def allow_rounding(values: Array, noise: Array | None, limits: Limits) -> Tolerance:
    """For vectors that are ``values [n, dim]`` in float32, of which the source's own rounding is ``noise [n, 1]``."""
    own = compute_float32_tolerance(values)
    allowed = own if noise is None else own + NOISE * noise
    return Tolerance(limits.choose_tolerance(allowed), limits.choose_tolerance(own), limits.min_cosine)


def allow_loss(values: Array, spread: Array, limits: Limits) -> Tolerance:
    """For vectors that are ``values [n, dim]`` and that may be off by an angle, which ``limits`` name; ``spread [dim]`` is the
    standard deviation of each column over all feeds."""
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
    """How far the length of a vector may be off, as a share of it, where its angle may be off by ``cosine``."""
    return float(np.sqrt(2 * (1 - cosine))) + ONE_STEP


def compute_float32_tolerance(values: Array) -> Array:
    """How far each vector of ``values [n, dim]`` may be off in float32, ``[n, 1]``."""
    if values.dtype.kind in "biu":
        return np.zeros((len(values), 1))
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    length = np.sqrt(np.square(finite).sum(axis=-1, keepdims=True))
    return np.where(np.abs(length - 1) < ALMOST_ONE, UNIT, RELATIVE * np.maximum(1, find_largest(values)))


def find_largest(values: Array) -> Array:
    """The largest finite element of each vector, ``[n, 1]``."""
    return np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64)).max(axis=-1, keepdims=True, initial=0)


def compute_spread(arrays: Sequence[Array]) -> Array:
    """The standard deviation of each column over all vectors of ``arrays``, each ``[n, dim]``: ``[dim]``."""
    whole = np.concatenate(arrays).astype(np.float64)
    return np.array([float(column[np.isfinite(column)].std()) if np.isfinite(column).any() else 0.0 for column in whole.T])
