"""Two models with the same inputs, compared end to end on the same feeds, output by output.

The source is run once, and its outputs are kept for every model that is compared with it. The models run one after the other,
because they may not fit into memory together. Vectors are compared at tokens only: values at padding are arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from graphsurgery.progress import Progress, count_parts, ignore_progress
from graphsurgery.report import Check, Comparison, Verdict, list_few
from graphsurgery.runtime.session import Session

NAME = "same outputs"
Array = np.ndarray
Values = dict[str, Array]
OpenModel = Callable[[bool], Session]
"""Opens a model; if the argument is true, without ONNX Runtime's graph optimisations."""


@dataclass(frozen=True)
class Feed:
    """The inputs of one run, and which of the outputs' vectors count."""

    kind: str
    arrays: Values
    mask: Array | None
    """``[batch, seq]``, true at tokens; None if the model takes no mask."""
    empty_rows: bool = True
    """Whether rows without any token are compared, too."""
    per_token: frozenset[str] = frozenset()
    """The outputs ``[batch, seq]``, which hold one number per token."""

    def run(self, session: Session, names: Sequence[str]) -> Values:
        """Return those values of each output that count, as vectors ``[n, dim]``."""
        outputs = session.run(self.arrays, names)
        return {
            name: select_vectors(array, self.mask, per_token=name in self.per_token, empty_rows=self.empty_rows)
            for name, array in outputs.items()
        }


@dataclass
class SourceOutputs:
    """The outputs of the source on every feed that it can be run on."""

    open_model: OpenModel
    names: tuple[str, ...]
    feeds: list[Feed]
    values: list[Values]
    failed: dict[str, str]
    """The kinds of feed on which the source cannot be run, with the reasons."""
    progress: Progress = ignore_progress
    _noise: list[Values] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        open_model: OpenModel,
        names: Sequence[str],
        feeds: Iterable[Feed],
        session: Session | None = None,
        progress: Progress = ignore_progress,
    ) -> SourceOutputs:
        """Run the source, on ``session`` if it is open already. Raises UnsupportedModelError if it runs on no feed."""
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
        return cls(open_model, tuple(names), ran, values, failed, progress)

    @property
    def left_out(self) -> list[str]:
        """The kinds of feed and the outputs on which nothing can be compared, in words."""
        kinds = [f"{kind}: the source cannot be run on it: {why}" for kind, why in self.failed.items()]
        lost = [name for name in self.names if not any(np.isfinite(one[name]).all(axis=-1).any() for one in self.values)]
        return kinds + ([f"output {list_few(lost)}: the source gives no finite vector"] if lost else [])

    def count_feeds(self, doing: str) -> Iterator[Feed]:
        """Yield the feeds, and report how many are done."""
        return count_parts(self.feeds, len(self.feeds), self.progress, doing)

    def measure_noise(self) -> list[Values]:
        """Return the source's own rounding, ``[n, 1]`` for each output of each feed.

        It is the largest difference within each vector to a run without ONNX Runtime's graph optimisations. Measured once.
        """
        if not self._noise:
            session = self.open_model(True)
            plain = (feed.run(session, self.names) for feed in self.count_feeds("measuring the source's own rounding"))
            self._noise = [
                {name: _measure_difference(one[name], other[name]) for name in self.names}
                for one, other in zip(self.values, plain, strict=True)
            ]
        return self._noise


def compare_models(source: SourceOutputs, open_model: OpenModel, limits: Limits, *, is_exact: bool = True) -> Check:
    """Check that another model gives the source's outputs, within `allow_rounding` if ``is_exact``, else within `allow_loss`.

    A model fails if it cannot be loaded, or cannot be run on a feed on which the source can be run.
    """
    outputs, failure = _run_model(source, open_model)
    needs_noise = is_exact and limits.atol is None and not _is_within_promise(source, outputs)
    noise = source.measure_noise() if needs_noise else None
    spread = {name: _measure_spread(source, name) for name in source.names} if not is_exact else {}

    def allow(place: int, name: str) -> Tolerance:
        values = source.values[place][name]
        if not is_exact:
            return allow_loss(values, spread[name], limits)
        return allow_rounding(values, None if noise is None else noise[place][name], limits)

    comparisons: list[Comparison] = []
    for kind, places in groupby(range(len(outputs)), lambda place: source.feeds[place].kind):
        tallies: dict[tuple[float | None, float | None], Tally] = {}
        for place in places:
            for name in source.names:
                tolerance = allow(place, name)
                asked = (tolerance.least_cosine, tolerance.most_stretch)
                shown = kind if is_exact or tolerance.least_cosine is not None else f"{kind}, scores"
                tally = tallies.setdefault(asked, Tally(shown, *asked))
                values = source.values[place][name]
                tally.add(outputs[place].get(name, ABSENT), values, tolerance.elements, tolerance.promised)
        comparisons += [tally.summarize() for tally in tallies.values()]
    if failure is not None:
        return Check(NAME, failure, tuple(comparisons), stated=Verdict.FAILED)
    detail = f"{list_few(source.names)} of both models, on the same feeds"
    if noise is not None:
        most = max((float(rows.max(initial=0)) for one in noise for rows in one.values()), default=0.0)
        detail += f"; the source's own rounding is {most:.1e}"
    return Check(NAME, detail, tuple(comparisons))


def _run_model(source: SourceOutputs, open_model: OpenModel) -> tuple[list[Values], str | None]:
    """Return the model's outputs on all feeds before the first on which it fails, and why it fails; None if it does not.

    If an output has another last dim than the source's, no outputs are returned.
    """
    outputs: list[Values] = []
    try:
        session = open_model(False)
    except UnsupportedModelError as error:
        return outputs, f"the source can be loaded and the output cannot: {error}"
    for feed in source.count_feeds("running the new file"):
        try:
            outputs.append(feed.run(session, source.names))
        except UnsupportedModelError as error:
            return outputs, f"{feed.kind}: {error}"
    other = _explain_other_width(source, outputs)
    return ([], other) if other is not None else (outputs, None)


def _explain_other_width(source: SourceOutputs, outputs: Sequence[Values]) -> str | None:
    """Say which outputs have other last dims than the source's, or return None if there are none."""
    values = [(name, one, outputs[0].get(name, ABSENT)) for name, one in source.values[0].items()] if outputs else []
    wide = [(name, one.shape[-1], other.shape[-1]) for name, one, other in values if other.ndim == one.ndim > 1]
    said = [f"{name} is {other} wide, and the source's is {one} wide" for name, one, other in wide if one != other]
    return "; ".join(said) or None


def _is_within_promise(source: SourceOutputs, outputs: Sequence[Values]) -> bool:
    """Return whether every vector is within float32's own tolerance, without the allowance for the source's rounding."""
    pairs = ((one[name], other.get(name, ABSENT)) for one, other in zip(source.values, outputs, strict=False) for name in one)
    return all(
        one.shape == other.shape and bool(np.all(_measure_difference(one, other) <= compute_float32_tolerance(one)))
        for one, other in pairs
    )


def _measure_spread(source: SourceOutputs, name: str) -> Array:
    """Return the spread of each column of an output with narrow vectors; 0 for other outputs, whose spread does not count."""
    values = [one[name] for one in source.values]
    widths = {one.shape[-1] for one in values}
    return compute_spread(values) if len(widths) == 1 and max(widths) <= NARROW else np.zeros(1)


def _measure_difference(one: Array, other: Array) -> Array:
    """Return the largest difference within each vector, ``[n, 1]``; 0 where either is not finite."""
    if one.shape != other.shape:
        return np.zeros((len(one), 1))
    with np.errstate(invalid="ignore"):  # infinite in both
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return np.where(np.isfinite(apart), apart, 0).max(axis=-1, keepdims=True, initial=0)
