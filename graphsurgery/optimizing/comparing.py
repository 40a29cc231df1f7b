"""A rewritten file against the one it was made from: both end to end, on every kind of feed.

Allowed is 1e-6 for vectors of length one and 1e-5 x max(1, max|x|) over a row otherwise; where the source itself rounds by
more on any of the feeds, run by ONNX Runtime with its graph optimisations and without, four times that: a head may magnify what
an encoder rounds. Hidden states are compared at tokens: what stands at padding may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
NOISE = 4
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


@dataclass(frozen=True)
class _Run:
    """One output on one feed, at tokens: of the source, and of what was made of it; how much of its promised tolerance the
    source's own rounding takes."""

    name: str
    wanted: Array
    found: Array
    promised: Array
    noise: Array

    @property
    def share(self) -> float:
        return float(np.max(self.noise / self.promised, initial=0))


def compared(
    pair: Pair, names: Sequence[str], drawer: Drawer, texts: Encoded | None, limits: Limits, exact: bool = True
) -> Check:
    """Whether the outputs ``names`` are the same on every kind of feed that the model takes; not ``exact``: within ``limits``
    alone."""
    runs = [
        (kind, [one for feed in feeds for one in _runs(pair, names, feed, drawer.mask_of(feed))])
        for kind, feeds in whole_cases(drawer, texts)
    ]
    every = [one for _, of_kind in runs for one in of_kind]
    widened = {name: max(1.0, NOISE * max((one.share for one in every if one.name == name), default=0)) for name in names}
    comparisons = []
    for kind, of_kind in runs:
        tally = Tally(kind, limits.min_cosine)
        for one in of_kind:
            own = one.promised * widened[one.name] if exact else np.array(np.inf)
            tally.add(one.found, one.wanted, limits.tolerance(own), widened[one.name] if exact else 1.0)
        comparisons.append(tally.result())
    noise = max((float(one.noise.max(initial=0)) for one in every), default=0.0)
    detail = f"{', '.join(names)} of both files on the same feeds; the source's own rounding is {noise:.1e}"
    return Check(NAME, detail, tuple(comparisons))


def _runs(pair: Pair, names: Sequence[str], feed: Values, mask: Array | None) -> Iterator[_Run]:
    wanted, plain, found = (one.run(feed, names) for one in (pair.source, pair.plain, pair.output))
    for name in names:
        one = at_tokens(wanted[name], mask)
        noise = difference(one, at_tokens(plain[name], mask))
        yield _Run(name, one, at_tokens(found.get(name, ABSENT), mask), promised(one), noise)


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
