"""A rewritten file against the one it was made from: both end to end, on every kind of feed.

Allowed is 1e-6 for vectors of length one and 1e-5 x max(1, max|x|) over a row otherwise; where the source itself rounds by
more on any of the feeds, run by ONNX Runtime with its graph optimisations and without, four times that: a head may magnify what
an encoder rounds. Hidden states are compared at tokens: what stands at padding may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from graphsurgery.proof.compare import ABSENT, Limits, Tally
from graphsurgery.proof.meaning import RELATIVE, UNIT
from graphsurgery.proof.whole_proof import whole_cases
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import Encoded

NAME = "same outputs"
NOISE = 4
"""How many times the source's own rounding is allowed."""
ALMOST_ONE = 1e-4
"""How far the length of a vector may be from one that is meant to be of length one."""
Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Wanted:
    """What the source gives on one feed: each output at tokens, and how far its own rounding is off in each row."""

    kind: str
    feed: Values
    mask: Array | None
    values: Values
    noise: Values

    def share(self, name: str) -> float:
        """How much of the promised tolerance the source's own rounding takes."""
        return float(np.max(self.noise[name] / promised(self.values[name]), initial=0))


def wanted(
    opened: Callable[[bool], Session], names: Sequence[str], drawer: Drawer, texts: Encoded | None
) -> tuple[Wanted, ...]:
    """The source's outputs ``names`` on every kind of feed that it takes: as ONNX Runtime runs it, and, for its rounding,
    without graph optimisations. ``opened`` opens it so, or (True) without them: one after the other, as both may not fit."""
    session = opened(False)
    runs = [
        (kind, feed, mask, _at_tokens(session.run(feed, names), mask))
        for kind, feeds in whole_cases(drawer, texts)
        for feed, mask in ((feed, drawer.mask_of(feed)) for feed in feeds)
    ]
    del session
    session = opened(True)
    return tuple(Wanted(kind, feed, mask, made, _noise(session, feed, mask, made)) for kind, feed, mask, made in runs)


def compared(every: Sequence[Wanted], output: Session, limits: Limits, exact: bool = True) -> Check:
    """Whether ``output`` gives what is wanted; not ``exact``: within ``limits`` alone."""
    names = list(every[0].values) if every else []
    beyond = {name: max(1.0, NOISE * max(one.share(name) for one in every)) if exact else 1.0 for name in names}
    comparisons = []
    for kind, cases in groupby(every, lambda one: one.kind):
        tally = Tally(kind, limits.min_cosine)
        for one in cases:
            found = _at_tokens(output.run(one.feed, names), one.mask)
            for name, values in one.values.items():
                own = promised(values) * beyond[name] if exact else np.array(np.inf)
                tally.add(found.get(name, ABSENT), values, limits.tolerance(own), beyond[name])
        comparisons.append(tally.result())
    noise = max((float(rows.max(initial=0)) for one in every for rows in one.noise.values()), default=0.0)
    detail = f"{', '.join(names)} of both files on the same feeds; the source's own rounding is {noise:.1e}"
    return Check(NAME, detail, tuple(comparisons))


def _noise(plain: Session, feed: Values, mask: Array | None, made: Values) -> Values:
    """How far the source is off in each row without graph optimisations."""
    other = _at_tokens(plain.run(feed, list(made)), mask)
    return {name: difference(values, other[name]) for name, values in made.items()}


def _at_tokens(values: Values, mask: Array | None) -> Values:
    return {name: at_tokens(array, mask) for name, array in values.items()}


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


def promised(values: Array) -> Array:
    """How far a value may be from ``values``, row by row."""
    rows = np.where(np.isfinite(values), values, 0).astype(np.float64)
    axes = tuple(range(1, rows.ndim))
    largest = np.abs(rows).max(axis=axes, keepdims=True, initial=0) if rows.ndim else np.abs(rows)
    length = np.sqrt(np.square(rows).sum(axis=-1, keepdims=True)) if rows.ndim == 2 else np.zeros_like(largest)
    return np.where(np.abs(length - 1) < ALMOST_ONE, UNIT, RELATIVE * np.maximum(1, largest))
