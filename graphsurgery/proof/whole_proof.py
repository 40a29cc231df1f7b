"""The whole proof: source and output run end to end in ONNX Runtime. The reference starts from the source's hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.compare.tolerance import Limits
from graphsurgery.compare.vectors import measure_largest_difference
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.progress import Progress, count_parts
from graphsurgery.proof.expected import ExpectedOutputs
from graphsurgery.proof.judging import judge
from graphsurgery.references.reference import Expected
from graphsurgery.remarks import Warn
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.masks import LEFT, RIGHT, Mask
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import Encoded

NAME = "whole proof"
NEGLIGIBLE = 1e-5
"""A dependence on neighbours or padding up to this size is only rounding."""
FAR = 1e-3
"""A dependence above this size is far more than rounding."""
BEHIND, IN_FRONT = "padding behind it", "padding in front of it"
_PADDING = {RIGHT: BEHIND, LEFT: IN_FRONT}
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Whole:
    """The source and the output, opened, and the values that the output must give."""

    expected: ExpectedOutputs
    output: Session
    declared: tuple[Value, ...]
    """The outputs as the file declares them."""

    def compute_expected(self, feed: Values) -> dict[str, Expected]:
        """Return the values that the output must give for a feed."""
        return self.expected(feed, self.output.outputs)


def prove_whole(
    whole: Whole,
    reference: Callable[[Values], dict[str, Expected]],
    cases: Iterable[tuple[str, Iterable[Values]]],
    limits: Limits,
) -> Check:
    """Check the output against ``reference``, which is `Whole.compute_expected`, on every feed of every kind."""
    detail = "source and output end to end in ONNX Runtime; the source's hidden states feed the float64 reference"
    pairs = ((kind, ((feed, reference(feed)) for feed in feeds)) for kind, feeds in cases)
    return judge(NAME, detail, whole.output.run, whole.declared, pairs, limits)


def report_feeds(
    cases: Iterable[tuple[str, list[Values]]], total: int, progress: Progress
) -> Iterator[tuple[str, Iterator[Values]]]:
    """Yield ``cases``, and report before each feed how many of ``total`` are done."""
    done = 0
    for kind, feeds in cases:
        yield kind, count_parts(feeds, total, progress, f"{NAME}: {kind}", done)
        done += len(feeds)


def count_whole_feeds(generator: FeedGenerator, texts: Encoded | None) -> int:
    """Return how many feeds `make_whole_cases` yields, at least: a fixed batch size splits those of real text further."""
    drawn = sum(len(masks) for _, masks in generator.generate_masks(longest=True))
    real = 0 if texts is None else sum(1 for _ in texts.split_into_batches())
    return drawn * (1 if generator.with_defaults is None else 2) + real


def make_whole_cases(generator: FeedGenerator, texts: Encoded | None) -> Iterator[tuple[str, list[Values]]]:
    """Yield drawn feeds of every kind, and real text if there is a tokenizer."""
    for kind, masks in generator.generate_masks(longest=True):
        yield kind, [generator.generate(mask, seed) for seed, mask in enumerate(masks)]
        if generator.with_defaults is not None:
            feeds = [generator.with_defaults.generate(mask, seed) for seed, mask in enumerate(masks)]
            yield f"{kind}, optional inputs given", feeds
    if texts is not None:
        yield "real text", [feed for batch in texts.split_into_batches() for feed in generate_text_feeds(generator, batch)]


def measure_dependence(whole: Whole, generator: FeedGenerator) -> list[str]:
    """Measure how much a row's vector changes with its neighbours in the batch, and with padding behind and in front of it.

    Many encoders have such a dependence themselves, so it is reported together with the source's own and never judged.
    A dependence on neighbours or on padding behind that is far above rounding is a warning.
    """
    are_pictures = generator.has_rows and not generator.has_texts  # they have no padding
    one, beside = generator.unit, f"other {generator.unit}s in the batch"
    unmeasured = f"not measured how much {beside}{'' if are_pictures else ' and padding'} change a vector:"
    if generator.fixed_batch is not None or (generator.fixed_sequence is not None and not are_pictures):
        return [f"{unmeasured} the model's batch {'' if are_pictures else 'or sequence '}size is fixed"]
    if not generator.has_rows:
        return [f"{unmeasured} no input has texts as rows, one below the other"]
    dependence = {beside: np.zeros(2)}
    masks = {kind: masks[0] for kind, masks in generator.generate_masks() if kind in _PADDING}
    if not masks:
        return []
    for kind, mask in masks.items():
        try:
            measured = _measure_dependence_of(whole, generator, mask)
        except UnsupportedModelError as error:
            return [f"{unmeasured} {error}"]
        if measured is None:
            return [
                f"{unmeasured} no output has one vector per {one}{'' if are_pictures else ' that is as wide for every length'}"
            ]
        neighbours, padding = measured
        dependence[beside] = np.maximum(dependence[beside], neighbours)
        dependence |= {} if are_pictures else {_PADDING[kind]: padding}
    small = {what: float(np.max(most)) for what, most in dependence.items() if np.max(most) <= NEGLIGIBLE}
    said = [f"a {one}'s vector changes by at most {max(small.values()):.1e} with {_join_with_or(list(small))}"] if small else []
    return said + [
        (Warn if what != IN_FRONT and most[0] > FAR else str)(
            f"a {one}'s vector changes by up to {most[0]:.1e} with {what} (the source's by {most[1]:.1e})"
        )
        for what, most in dependence.items() if what not in small
    ]  # fmt: skip


def _measure_dependence_of(whole: Whole, generator: FeedGenerator, mask: Mask) -> tuple[np.ndarray, np.ndarray] | None:
    """Return how far a row's vector changes without its neighbours, and then without its padding: output's and source's.

    None if there is no vector per row, or if it is wider for longer texts. Raises UnsupportedModelError if a run fails.
    """
    runs: list[Callable[[Values], Values]] = [whole.output.run, lambda feed: _take_values(whole.compute_expected(feed))]
    batch = generator.generate(mask, seed=0)
    full = [_find_embedding(run(batch)) for run in runs]
    if any(array.ndim != 2 or len(array) != len(mask) for array in full):
        return None
    neighbours, padding = np.zeros(2), np.zeros(2)
    for row in range(len(mask)):
        tokens = np.flatnonzero(mask[row])
        for index, run in enumerate(runs):
            alone = _find_embedding(run(generator.cut_feed(batch, row, slice(None))))[0]
            cut = _find_embedding(run(generator.cut_feed(batch, row, slice(tokens[0], tokens[-1] + 1))))[0]
            if cut.shape != alone.shape:
                return None
            neighbours[index] = max(neighbours[index], measure_largest_difference(alone, full[index][row]))
            padding[index] = max(padding[index], measure_largest_difference(cut, alone))
    return neighbours, padding


def _join_with_or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _take_values(expected: dict[str, Expected]) -> Values:
    return {name: one.values for name, one in expected.items()}


def _find_embedding(values: Values) -> np.ndarray:
    """Return the first output that is one vector per row."""
    return next((array for array in values.values() if array.ndim == 2), next(iter(values.values())))
