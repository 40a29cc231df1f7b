"""Two models with the same inputs, end to end on the same feeds, output by output.

The source is run once for every model that is held against it, and the models run one after the other, as they may not fit into
memory together. Values are compared vector by vector at tokens: what a model gives at padding may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from graphsurgery.compare.tally import ABSENT, Tally
from graphsurgery.compare.tolerance import (
    NARROW,
    Limits,
    Tolerance,
    allow_loss,
    allow_rounding,
    compute_float32_tolerance,
    compute_spread,
)
from graphsurgery.compare.vectors import select_vectors
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.report import Check, Comparison, Verdict
from graphsurgery.runtime.session import Session

NAME = "same outputs"
Array = np.ndarray
Values = dict[str, Array]
OpenModel = Callable[[bool], Session]
"""Opens a model, or (True) opens it without ONNX Runtime's graph optimisations."""


@dataclass(frozen=True)
class Feed:
    """What goes in, and where it has tokens (None: the model takes no mask)."""

    kind: str
    arrays: Values
    mask: Array | None
    empty_rows: bool = True
    """Whether the vectors of rows without a token count."""
    per_token: frozenset[str] = frozenset()
    """Outputs ``[batch, seq]``: one number per token."""

    def run(self, session: Session, names: Sequence[str]) -> Values:
        """Those values of each output that count, as vectors ``[n, dim]``."""
        found = session.run(self.arrays, names)
        return {
            name: select_vectors(array, self.mask, per_token=name in self.per_token, empty_rows=self.empty_rows)
            for name, array in found.items()
        }


@dataclass
class SourceOutputs:
    """What the source gives on every feed that it can be run on."""

    open_model: OpenModel
    names: tuple[str, ...]
    feeds: list[Feed]
    values: list[Values]
    failed: dict[str, str]
    """The kinds of feed on which the source cannot be run, and why."""
    _noise: list[Values] = field(default_factory=list)

    @classmethod
    def of(
        cls, open_model: OpenModel, names: Sequence[str], feeds: Iterable[Feed], session: Session | None = None
    ) -> SourceOutputs:
        """Run the source, opened already where a ``session`` is given. UnsupportedModelError where it cannot be run at all."""
        session = session or open_model(False)
        ran: list[Feed] = []
        values: list[Values] = []
        failed: dict[str, str] = {}
        for feed in feeds:
            try:
                values.append(feed.run(session, names))
                ran.append(feed)
            except UnsupportedModelError as error:
                failed.setdefault(feed.kind, str(error))
        if failed and not ran:
            raise UnsupportedModelError(next(iter(failed.values())), "look at the source first")
        return cls(open_model, tuple(names), ran, values, failed)

    @property
    def left_out(self) -> list[str]:
        """Kinds of feed and outputs that nothing can be compared on, in words."""
        kinds = [f"{kind}: the source cannot be run on it: {why}" for kind, why in self.failed.items()]
        lost = [name for name in self.names if not any(np.isfinite(one[name]).all(axis=-1).any() for one in self.values)]
        return kinds + [f"output {name}: the source gives no finite vector" for name in lost]

    def measure_noise(self) -> list[Values]:
        """The source's own rounding, ``[n, 1]`` for each output of each feed: the largest difference within each vector when it
        is run without ONNX Runtime's graph optimisations. Measured once, when it is asked for."""
        if not self._noise:
            session = self.open_model(True)
            plain = (feed.run(session, self.names) for feed in self.feeds)
            self._noise = [
                {name: _measure_difference(one[name], other[name]) for name in self.names}
                for one, other in zip(self.values, plain, strict=True)
            ]
        return self._noise


def compare_models(given: SourceOutputs, open_model: OpenModel, limits: Limits, *, is_exact: bool = True) -> Check:
    """Whether another model gives what the source gave; not ``is_exact``: as far as ``limits.min_cosine`` asks.

    A model that cannot be loaded or run where the source can has failed.
    """
    found, broken = _run_model(given, open_model)
    noise = given.measure_noise() if is_exact and limits.atol is None and not _is_within_promise(given, found) else None
    spread = {name: _measure_spread(given, name) for name in given.names} if not is_exact else {}

    def allowed(place: int, name: str) -> Tolerance:
        values = given.values[place][name]
        if not is_exact:
            return allow_loss(values, spread[name], limits)
        return allow_rounding(values, None if noise is None else noise[place][name], limits)

    comparisons: list[Comparison] = []
    for kind, places in groupby(range(len(found)), lambda place: given.feeds[place].kind):
        tallies: dict[tuple[float | None, float | None], Tally] = {}
        for place in places:
            for name in given.names:
                tolerance = allowed(place, name)
                asked = (tolerance.least_cosine, tolerance.most_stretch)
                told = kind if is_exact or tolerance.least_cosine is not None else f"{kind}, scores"
                tally = tallies.setdefault(asked, Tally(told, *asked))
                values = given.values[place][name]
                tally.add(found[place].get(name, ABSENT), values, tolerance.elements, tolerance.promised)
        comparisons += [tally.summarize() for tally in tallies.values()]
    if broken is not None:
        return Check(NAME, broken, tuple(comparisons), stated=Verdict.FAILED)
    detail = f"{', '.join(given.names)} of both models, on the same feeds"
    if noise is not None:
        most = max((float(rows.max(initial=0)) for one in noise for rows in one.values()), default=0.0)
        detail += f"; the source's own rounding is {most:.1e}"
    return Check(NAME, detail, tuple(comparisons))


def _run_model(given: SourceOutputs, open_model: OpenModel) -> tuple[list[Values], str | None]:
    """What the model gives on the feeds up to the first that it fails on, and how it fails."""
    found: list[Values] = []
    try:
        session = open_model(False)
    except UnsupportedModelError as error:
        return found, f"the source can be loaded and the output cannot: {error}"
    for feed in given.feeds:
        try:
            found.append(feed.run(session, given.names))
        except UnsupportedModelError as error:
            return found, f"{feed.kind}: {error}"
    return found, None


def _is_within_promise(given: SourceOutputs, found: Sequence[Values]) -> bool:
    """Whether every vector is as near as float32 promises, whatever the source rounds."""
    pairs = ((one[name], other.get(name, ABSENT)) for one, other in zip(given.values, found, strict=False) for name in one)
    return all(
        one.shape == other.shape and bool(np.all(_measure_difference(one, other) <= compute_float32_tolerance(one)))
        for one, other in pairs
    )


def _measure_spread(given: SourceOutputs, name: str) -> Array:
    """The spread of each column of an output whose vectors are narrow; nothing of others, whose spread does not count."""
    values = [one[name] for one in given.values]
    widths = {one.shape[-1] for one in values}
    return compute_spread(values) if len(widths) == 1 and max(widths) <= NARROW else np.zeros(1)


def _measure_difference(one: Array, other: Array) -> Array:
    """The largest difference within each vector, ``[n, 1]``; 0 where either is not finite."""
    if one.shape != other.shape:
        return np.zeros((len(one), 1))
    with np.errstate(invalid="ignore"):  # infinite in both
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return np.where(np.isfinite(apart), apart, 0).max(axis=-1, keepdims=True, initial=0)
