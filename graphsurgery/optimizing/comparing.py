"""A rewritten file against the one it was made from: both end to end, on every kind of feed.

Hidden states are compared at tokens: what stands at padding may be anything. The models run one after the other, as they may
not fit into memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from graphsurgery.optimizing.allowed import in_float32, in_half
from graphsurgery.proof.compare import ABSENT, Limits, Tally
from graphsurgery.proof.whole_proof import whole_cases
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import Encoded

NAME = "same outputs"
Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Given:
    """A feed, where it has tokens (None: the model takes no mask), and whether rows without any count."""

    kind: str
    feed: Values
    mask: Array | None
    empty_rows: bool

    def run(self, session: Session, names: Sequence[str]) -> Values:
        """Each output, ``[batch, seq, ...]`` as ``[tokens, ...]``."""
        return {name: self._counted(array) for name, array in session.run(self.feed, names).items()}

    def _counted(self, values: Array) -> Array:
        if self.mask is None or values.shape[:1] != self.mask.shape[:1]:
            return values
        if values.ndim > 2 and values.shape[:2] == self.mask.shape:
            return values[self.mask]
        return values if self.empty_rows else values[self.mask.any(axis=1)]


@dataclass(frozen=True)
class Wanted:
    """What the source gives on one feed, and how far its own rounding is off in each row."""

    given: Given
    values: Values
    noise: Values


def wanted(
    opened: Callable[[bool], Session], names: Sequence[str], drawer: Drawer, texts: Encoded | None, empty_rows: bool = True
) -> tuple[Wanted, ...]:
    """The source's outputs ``names`` on every kind of feed that it takes: as ONNX Runtime runs it, and, for its rounding,
    without graph optimisations. ``opened`` opens it so, or (True) without them. ``empty_rows``: whether the vectors of rows
    without a token count."""
    every = [
        Given(kind, feed, drawer.mask_of(feed), empty_rows) for kind, feeds in whole_cases(drawer, texts) for feed in feeds
    ]
    session = opened(False)
    made = [one.run(session, names) for one in every]
    del session
    session = opened(True)
    plain = (one.run(session, names) for one in every)
    return tuple(Wanted(one, values, _apart(values, other)) for one, values, other in zip(every, made, plain, strict=True))


def compared(every: Sequence[Wanted], output: Session, limits: Limits, exact: bool = True) -> Check:
    """Whether ``output`` gives what is wanted; not ``exact``: as far as half precision does, by ``limits``."""
    names = list(every[0].values) if every else []
    seen = (lambda one: one) if exact else _vectors
    by_name = {name: ([seen(one.values[name]) for one in every], [one.noise[name] for one in every]) for name in names}
    allowed = {
        name: in_float32(values, noise, limits) if exact else in_half(values, limits)
        for name, (values, noise) in by_name.items()
    }
    comparisons = []
    for kind, cases in groupby(every, lambda one: one.given.kind):
        tallies: dict[float | None, Tally] = {}
        for one in cases:
            found = one.given.run(output, names)
            for name in names:
                limit, values = allowed[name], seen(one.values[name])
                scores = ", scores" if not exact and limit.least_cosine is None else ""
                tally = tallies.setdefault(limit.least_cosine, Tally(kind + scores, limit.least_cosine))
                tally.add(seen(found.get(name, ABSENT)), values, limit.tolerance(values), limit.beyond)
        comparisons += [tally.result() for tally in tallies.values()]
    noise = max((float(rows.max(initial=0)) for one in every for rows in one.noise.values()), default=0.0)
    detail = f"{', '.join(names)} of both files on the same feeds; the source's own rounding is {noise:.1e}"
    return Check(NAME, detail, tuple(comparisons))


def _vectors(values: Array) -> Array:
    """``[..., dim]`` as ``[vectors, dim]``: an angle is between two of them."""
    return values.reshape(-1, values.shape[-1]) if values.ndim > 2 else values


def _apart(values: Values, other: Values) -> Values:
    return {name: difference(one, other[name]) for name, one in values.items()}


def difference(one: Array, other: Array) -> Array:
    """The largest difference in each row, ``[batch]``, shaped to broadcast against ``one``; 0 where either is not finite."""
    with np.errstate(invalid="ignore"):  # infinite in both
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64)) if one.shape == other.shape else np.zeros(one.shape)
    finite = np.where(np.isfinite(apart), apart, 0)
    return finite.max(axis=tuple(range(1, finite.ndim)), keepdims=True, initial=0) if finite.ndim else finite
