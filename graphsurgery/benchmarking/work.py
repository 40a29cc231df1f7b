"""What the models of a benchmark are asked to do: batches of one size, or the texts of a file in the batches of a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np

from graphsurgery.errors import RequestError
from graphsurgery.runtime.batches import plan
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.own_process import Feed
from graphsurgery.runtime.texts import BATCH, Encoded

Batches = list[list[int]]
ARRIVAL, SINGLE, BUDGET, TOKENS = "arrival", "single", "budget", "tokens"


def _cut_by_number(lengths: Sequence[int], size: int) -> Batches:
    return [list(range(start, min(start + size, len(lengths)))) for start in range(0, len(lengths), size)]


STRATEGIES: Mapping[str, Callable[[Sequence[int], int], Batches]] = MappingProxyType({
    ARRIVAL: lambda lengths, _: _cut_by_number(lengths, BATCH),
    SINGLE: lambda lengths, _: _cut_by_number(lengths, 1),
    BUDGET: plan,
    TOKENS: lambda lengths, budget: plan(lengths, budget, padded=False),
})  # fmt: skip
"""The ways in which a client puts texts of known lengths into batches, given the budget of one run."""
USUAL = (ARRIVAL, SINGLE, BUDGET)
PLANNED = (BUDGET, TOKENS)
"""The strategies that have a budget."""


def describe_strategy(strategy: str, budget: int | None) -> str:
    """Return which texts a strategy runs together, in a few words."""
    return {
        ARRIVAL: f"{BATCH} as they come", SINGLE: "one at a time", BUDGET: f"{budget} positions, sorted",
        TOKENS: f"{budget} tokens, sorted",
    }[strategy]  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Feeds that a client runs one after the other."""

    feeds: tuple[Feed, ...]
    texts: tuple[int, ...]
    """The number of texts in each feed."""
    tokens: int
    """The tokens of all texts, without padding."""


def list_shapes(generators: Sequence[FeedGenerator], batches: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs (texts, tokens of each) to run, within the sizes that all models take.

    Raises RequestError if two models have different fixed sizes, or if a number is below 1.
    """
    for name, numbers in (("batches", batches), ("lengths", lengths)):
        if not numbers or min(numbers) < 1:
            raise RequestError(f"--{name} must be numbers of 1 or more, got {list(numbers)}", "give for example 1,8,32")
    rows = _find_fixed("batch size", [one.fixed_batch for one in generators])
    columns = _find_fixed("sequence size", [one.fixed_sequence for one in generators])
    limited = [columns or min(one.limit_length(length) for one in generators) for length in lengths]
    return list(dict.fromkeys(product([rows or size for size in batches], limited)))


def _find_fixed(what: str, sizes: Sequence[int | None]) -> int | None:
    found = sorted({size for size in sizes if size is not None})
    if len(found) > 1:
        raise RequestError(
            f"the models have a fixed {what}, and not the same: {' and '.join(map(str, found))}", "measure them one by one"
        )
    return found[0] if found else None


def draw_work(generator: FeedGenerator, texts: int, tokens: int) -> Work:
    """Return one feed of ``texts`` texts with ``tokens`` tokens each, without padding."""
    feed = generator.generate(np.ones((texts, tokens), dtype=np.bool_), seed=0)
    return Work((feed,), (texts,), texts * tokens)


def split_texts(generator: FeedGenerator, encoded: Encoded, strategy: str, budget: int) -> Work:
    """Return the feeds in which a client that follows ``strategy`` runs the texts."""
    lengths = encoded.mask.sum(axis=1)
    feeds: list[Feed] = []
    texts: list[int] = []
    for rows in STRATEGIES[strategy](lengths, budget):
        made = generate_text_feeds(generator, encoded.take(rows))
        feeds += made
        texts += _count_texts(len(rows), len(made), generator.fixed_batch)
    return Work(tuple(feeds), tuple(texts), int(lengths.sum()))


def _count_texts(rows: int, feeds: int, size: int | None) -> Iterator[int]:
    """Yield the number of texts in each feed of a batch. Rows that only fill up a fixed batch size do not count."""
    for place in range(feeds):
        yield rows if size is None else min(size, rows - place * size)
