"""How far an output of a rewritten file may be from the source's.

In float32: 1e-6 for vectors of length one and 1e-5 x max(1, max|x|) over a row otherwise; or four times what the source itself
rounds on any of the feeds, run by ONNX Runtime with its graph optimisations and without, where that is more (up to a hundred
times what is promised): a head may magnify what an encoder rounds.

In half precision: by an angle, and by a share of the row's largest element that goes with it (`longest_apart`). A score, one
number per row, has no angle: the share is of how far scores are spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.proof.compare import Limits, longest_apart
from graphsurgery.proof.meaning import RELATIVE, UNIT

NOISE, MOST_BEYOND = 4, 100.0
"""How many times the source's own rounding is allowed, and how many times the promised tolerance at most."""
ALMOST_ONE = 1e-4
"""How far the length of a vector may be from one that is meant to be of length one."""
Array = np.ndarray


@dataclass(frozen=True)
class Allowed:
    """``tolerance``: from values to what each may be off (broadcast); ``beyond``: how many times what is promised that is;
    ``least_cosine``: asked for besides."""

    tolerance: Callable[[Array], Array]
    beyond: float = 1.0
    least_cosine: float | None = None


def in_float32(values: Sequence[Array], noise: Sequence[Array], limits: Limits) -> Allowed:
    """For an output that is ``values`` on all feeds, of which the source's own rounding is ``noise``."""
    share = max((float(np.max(own / promised(one), initial=0)) for one, own in zip(values, noise, strict=True)), default=0.0)
    beyond = min(max(1.0, NOISE * share), MOST_BEYOND)
    return Allowed(lambda one: limits.tolerance(promised(one) * beyond), beyond, limits.min_cosine)


def in_half(values: Sequence[Array], limits: Limits) -> Allowed:
    """For an output that is ``values`` on all feeds, computed in half precision; ``limits`` name the smallest cosine."""
    cosine = limits.min_cosine
    assert cosine is not None
    share = longest_apart(cosine)
    if not all(_is_score(one) for one in values):
        return Allowed(lambda one: limits.tolerance(share * _largest(one)), least_cosine=cosine)
    numbers = np.concatenate([one[np.isfinite(one)].ravel().astype(np.float64) for one in values])
    spread = float(numbers.std()) if numbers.size else 0.0
    return Allowed(lambda one: limits.tolerance(share * (np.array(spread) if spread else _largest(one))))


def promised(values: Array) -> Array:
    """How far a value may be from ``values`` in float32, row by row."""
    rows = np.where(np.isfinite(values), values, 0).astype(np.float64)
    length = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True)) if rows.ndim == 2 else np.zeros_like(_largest(values))
    return np.where(np.abs(length - 1) < ALMOST_ONE, UNIT, RELATIVE * np.maximum(1, _largest(values)))


def _is_score(values: Array) -> bool:
    return values.ndim < 2 or values.shape[-1] == 1


def _largest(values: Array) -> Array:
    """The largest finite element of each row, ``[batch, 1, ...]``."""
    rows = np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64))
    return rows.max(axis=tuple(range(1, rows.ndim)), keepdims=True, initial=0) if rows.ndim else rows
