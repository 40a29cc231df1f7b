"""The whole proof: source and output end to end in ONNX Runtime, the source's hidden states feeding the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.compare.tolerance import Limits
from graphsurgery.interface import Value
from graphsurgery.proof.expected import ExpectedOutputs
from graphsurgery.proof.judging import judge
from graphsurgery.references.reference import Expected
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.masks import Mask
from graphsurgery.runtime.session import Session
from graphsurgery.runtime.texts import Encoded

NAME = "whole proof"
NEGLIGIBLE = 1e-5
"""Up to this, a dependence on neighbours or padding is only rounding."""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Whole:
    """Source and output, loaded, and the values that the output must give for a feed."""

    expected: ExpectedOutputs
    output: Session
    declared: tuple[Value, ...]
    """The output's outputs as it declares them."""

    def compute_expected(self, feed: Values) -> dict[str, Expected]:
        """Return the values that the output must give."""
        return self.expected(feed, self.output.outputs)


def prove_whole(
    whole: Whole, reference: Callable[[Values], dict[str, Expected]], cases: Iterator[tuple[str, list[Values]]], limits: Limits
) -> Check:
    """Compare the output with ``reference``, which is `Whole.compute_expected`, on every feed of every kind."""
    detail = "source and output end to end in ONNX Runtime, the source's hidden states feeding the float64 reference"
    pairs = ((kind, ((feed, reference(feed)) for feed in feeds)) for kind, feeds in cases)
    return judge(NAME, detail, whole.output.run, whole.declared, pairs, limits)


def make_whole_cases(generator: FeedGenerator, texts: Encoded | None) -> Iterator[tuple[str, list[Values]]]:
    """Drawn feeds of every kind, and real text where there is a tokenizer."""
    for kind, masks in generator.generate_masks(longest=True):
        yield kind, [generator.generate(mask, seed) for seed, mask in enumerate(masks)]
        if generator.with_defaults is not None:
            yield (
                f"{kind}, optional inputs given",
                [generator.with_defaults.generate(mask, seed) for seed, mask in enumerate(masks)],
            )
    if texts is not None:
        yield "real text", [feed for batch in texts.split_into_batches() for feed in generate_text_feeds(generator, batch)]


def measure_dependence(whole: Whole, generator: FeedGenerator, mask: Mask) -> list[str]:
    """Say how much a row's vector changes with its neighbours in the batch and with the padding after it.

    Many encoders have such a dependence by themselves, so it is reported and never judged; the source's own is named beside it.
    """
    unmeasured = "batch-neighbour and padding dependence: not measured,"
    if generator.fixed_batch is not None or generator.fixed_sequence is not None:
        return [f"{unmeasured} the model's batch or sequence size is fixed"]
    runs: list[Callable[[Values], Values]] = [whole.output.run, lambda feed: _take_values(whole.compute_expected(feed))]
    batch = generator.generate(mask, seed=0)
    full = [_find_embedding(run(batch)) for run in runs]
    if any(array.ndim != 2 or len(array) != len(mask) for array in full):
        return [f"{unmeasured} no output is one vector per text"]
    neighbours, padding = [0.0, 0.0], [0.0, 0.0]
    for row in range(len(mask)):
        alone = {name: array if name == generator.prompt else array[row : row + 1] for name, array in batch.items()}
        trimmed = {name: array[:, : int(mask[row].sum())] if array.ndim > 1 else array for name, array in alone.items()}
        for index, run in enumerate(runs):
            one = _find_embedding(run(alone))[0]
            neighbours[index] = max(neighbours[index], _measure_difference(one, full[index][row]))
            shorter = _find_embedding(run(trimmed))[0]
            if shorter.shape != one.shape:
                return [f"{unmeasured} the output's width follows the sequence"]
            padding[index] = max(padding[index], _measure_difference(shorter, one))
    largest = max(*neighbours, *padding)
    if largest <= NEGLIGIBLE:
        return [f"neighbours in the batch and padding change a row's vector by at most {largest:.1e}"]
    return [
        f"a row's vector changes by at most {most[0]:.1e} with {what} (the source's by {most[1]:.1e})"
        for what, most in (("its neighbours in the batch", neighbours), ("the padding after it", padding))
    ]


def _take_values(expected: dict[str, Expected]) -> Values:
    return {name: one.values for name, one in expected.items()}


def _find_embedding(values: Values) -> np.ndarray:
    """The first output that is a vector per row."""
    return next((array for array in values.values() if array.ndim == 2), next(iter(values.values())))


def _measure_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0))
