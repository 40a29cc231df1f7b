"""A rewritten file against the one it was made from: both end to end, on every kind of feed.

Allowed is 1e-6 for vectors of length one and 1e-5 x max(1, max|x|) over a row otherwise; where the source itself rounds by
more, run by ONNX Runtime with its graph optimisations and without, twice that. Hidden states are compared at tokens: what
stands at padding may be anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.proof.compare import ABSENT, Limits, Tally
from graphsurgery.proof.meaning import RELATIVE, UNIT
from graphsurgery.proof.whole_proof import whole_cases
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import Encoded

NAME = "same outputs"
NOISE = 2
"""How many times the source's own rounding is allowed."""
ALMOST_ONE = 1e-4
"""How far the length of a vector may be from one that is meant to be of length one."""
Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Pair:
    """The source, once as ONNX Runtime runs it and once without its graph optimisations, and what was made of it."""

    source: Session
    plain: Session
    output: Session


def compared(
    pair: Pair, names: Sequence[str], drawer: Drawer, texts: Encoded | None, limits: Limits, exact: bool = True
) -> Check:
    """Whether the outputs ``names`` are the same on every kind of feed that the model takes; not ``exact``: within ``limits``
    alone."""
    comparisons, noise = [], 0.0
    for kind, feeds in whole_cases(drawer, texts):
        tally = Tally(kind, limits.min_cosine)
        for feed in feeds:
            wanted, plain, found = (one.run(feed, names) for one in (pair.source, pair.plain, pair.output))
            mask = drawer.mask_of(feed)
            for name in names:
                one, other = at_tokens(wanted[name], mask), at_tokens(plain[name], mask)
                own = difference(one, other)
                noise = max(noise, float(own.max(initial=0)))
                tally.add(
                    at_tokens(found.get(name, ABSENT), mask),
                    one,
                    limits.tolerance(allowed(one, own) if exact else np.array(np.inf)),
                )
        comparisons.append(tally.result())
    detail = f"{', '.join(names)} of both files on the same feeds; the source's own rounding is {noise:.1e}"
    return Check(NAME, detail, tuple(comparisons))


def at_tokens(values: Array, mask: Array | None) -> Array:
    """``values [batch, seq, ...]`` at tokens, ``[tokens, ...]``; values of other shapes as they are."""
    if mask is None or values.ndim < 3 or values.shape[:2] != mask.shape:
        return values
    return values[mask]


def difference(one: Array, other: Array) -> Array:
    """The largest difference in each row, ``[batch]``, shaped to broadcast against ``one``; 0 where either is not finite."""
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64)) if one.shape == other.shape else np.zeros(one.shape)
    finite = np.where(np.isfinite(apart), apart, 0)
    return finite.max(axis=tuple(range(1, finite.ndim)), keepdims=True, initial=0) if finite.ndim else finite


def allowed(values: Array, noise: Array) -> Array:
    """How far a value may be from ``values``, row by row."""
    rows = np.where(np.isfinite(values), values, 0).astype(np.float64)
    axes = tuple(range(1, rows.ndim))
    largest = np.abs(rows).max(axis=axes, keepdims=True, initial=0) if rows.ndim else np.abs(rows)
    length = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True)) if rows.ndim == 2 else np.zeros_like(largest)
    promised = np.where(np.abs(length - 1) < ALMOST_ONE, UNIT, RELATIVE * np.maximum(1, largest))
    return np.maximum(promised, NOISE * noise)
