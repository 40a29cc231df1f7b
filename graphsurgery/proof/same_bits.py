"""Whether a text's vector is the same bits in any batch, and if not, how far apart, and which operator is the first to differ.

Where it is, a cache or an index holds exactly what another run gives. It depends on the machine and on ONNX Runtime, which may
add in another order if there are more rows. So it is tried and reported, and never judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.compare.vectors import measure_largest_difference
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.runtime.embedding import embed_batch
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import LONG, make_mask
from graphsurgery.runtime.media import describe_length
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import BATCH, Encoded

BESIDE, BEHIND = "other texts in the batch", "padding behind it"
AT_ONCE = 32
"""The number of values to look at in one run."""
ROUNDS = 5
"""The number of random batches in which each text is tried."""
MOST_PADDING = 16
"""A random batch is padded by up to this many positions beyond its longest text."""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two feeds that should give the text in ``row`` of the first, and the only text of the second, the same vector."""

    what: str
    """What the first has in addition: `BESIDE` or `BEHIND`."""
    one: Values
    other: Values
    row: int


@dataclass(frozen=True)
class BatchDependence:
    """How far a text's vector alone is from its vectors in random batches and at other padding."""

    output: str
    texts: int
    rounds: int
    largest: float
    """The largest absolute difference of a number. Infinite if one of them is not finite."""
    differing: int
    """The texts whose vector is not the same bits everywhere."""
    worst_text: int
    """The index of the text with the largest difference."""

    def __str__(self) -> str:
        return (
            f"largest difference {self.largest:.1e} between a text alone and in {self.rounds} random batches; the vectors of "
            f"{self.differing} of {self.texts} texts are not the same bits"
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready data. An infinite difference is None."""
        return {
            "output": self.output, "texts": self.texts, "rounds": self.rounds, "differing": self.differing,
            "largest": self.largest if np.isfinite(self.largest) else None, "worst_text": self.worst_text,
        }  # fmt: skip


def measure_batch_dependence(
    session: Session, generator: FeedGenerator, texts: Encoded, output: str, rounds: int = ROUNDS, seed: int = 0
) -> BatchDependence:
    """Measure how far each text's vector alone is from its vectors among other texts and with padding.

    Each text runs alone without padding. In each round all texts are shuffled and cut into batches of 1 to `BATCH`, each padded
    by 0 to `MOST_PADDING` positions more than its longest text needs, on the side of the tokenizer, as far as the model takes
    them. Float32 files are not bit-equal either: compare the figure with that of the source.

    Args:
        output: the name of the output with one vector per text, ``[batch, dim]``.

    Raises:
        RequestError: there is no text, or no round.
        UnsupportedModelError: the model takes one batch or sequence size alone or no mask, so a text has no other surroundings;
            ``output`` has no vector per text; or a run fails.
    """
    if rounds < 1 or not len(texts.ids):
        raise RequestError(
            f"{len(texts.ids)} texts in {rounds} batches each are nothing to compare", "give one or more of both"
        )
    _require_surroundings(generator)

    def embed(batch: Encoded) -> np.ndarray:
        found = embed_batch(session, generator, batch, [output])[output]
        if found is None:
            raise UnsupportedModelError(f"the output {output} has no vector per text")
        return found

    alone = [embed(texts.take([row]))[0] for row in range(len(texts.ids))]
    apart, differs = np.zeros(len(alone)), np.zeros(len(alone), dtype=np.bool_)
    rng = np.random.default_rng(seed)
    for rows in _draw_batches(rng, len(alone), rounds):
        batch = texts.take(rows)
        width = generator.limit_length(batch.ids.shape[1] + int(rng.integers(0, MOST_PADDING + 1)))
        for row, vector in zip(rows, embed(batch.pad_to(max(width, batch.ids.shape[1]))), strict=True):
            if vector.shape != alone[row].shape:
                raise UnsupportedModelError(f"the output {output} is not as wide for every length")
            apart[row] = max(apart[row], measure_largest_difference(vector, alone[row]))
            differs[row] |= vector.tobytes() != alone[row].tobytes()
    return BatchDependence(output, len(alone), rounds, float(apart.max()), int(differs.sum()), int(apart.argmax()))


def _require_surroundings(generator: FeedGenerator) -> None:
    """Raise UnsupportedModelError if a text cannot run both alone and in a batch, or both with and without padding."""
    if generator.fixed_batch is not None or generator.fixed_sequence is not None:
        raise UnsupportedModelError("the model's batch or sequence size is fixed, so a text always has the same surroundings")
    if not generator.has_mask:
        raise UnsupportedModelError("the model takes no mask, so it takes padding for tokens")


def _draw_batches(rng: np.random.Generator, texts: int, rounds: int) -> Iterator[list[int]]:
    """Yield the indexes of all texts, shuffled anew in each round, in batches of 1 to `BATCH`."""
    for _ in range(rounds):
        order = rng.permutation(texts).tolist()
        while order:
            rows = int(rng.integers(1, BATCH + 1))
            yield order[:rows]
            order = order[rows:]


def describe_bits(model: Model, session: Session, generator: FeedGenerator) -> list[str]:
    """Return a sentence that says whether a text's vector is the same bits in any batch, and with any padding behind it.

    ``session`` runs ``model`` on the feeds of ``generator``. There is no sentence if the model takes no texts, or only texts of
    one size, if it gives no vector per text, or if a run fails.
    """
    if generator.fixed_batch is not None or generator.fixed_sequence is not None or not generator.has_texts:
        return []
    try:
        worst, where = 0.0, None
        for pair in _list_pairs(generator):
            apart = _measure_vectors(session, pair)
            if apart is not None and (where is None or apart > worst):
                worst, where = apart, pair
    except UnsupportedModelError:
        return []
    if where is not None:
        operator = _find_operator(model, where)
        first = f"; the first operator to differ is {operator}" if operator is not None else ""
        return [
            f"a {generator.unit}'s vector is not the same bits in any batch: up to {worst:.1e} apart with {where.what}{first}"
        ]
    behind = " and with any padding behind it" if generator.has_mask else ""
    return [
        f"a {generator.unit}'s vector is the same bits in any batch{behind}, "
        f"as tried here on {generator.unit}s of up to {describe_length(_width(generator), generator.waveform)}"
    ]


def _width(generator: FeedGenerator) -> int:
    return generator.sizes.fit_width(LONG)


def _list_pairs(generator: FeedGenerator) -> Iterator[Pair]:
    """Yield pairs of feeds for each text: in a batch and alone, and with and without padding behind it."""
    width = _width(generator)
    lengths = [max(width - 3, 1), width, max(width // 3, 1)] if generator.has_mask else [width] * 3
    batch = generator.generate(make_mask(lengths, width), seed=0)
    for row, length in enumerate(lengths):
        alone = generator.cut_feed(batch, row, slice(None))
        yield Pair(BESIDE, batch, alone, row)
        if length < width:
            yield Pair(BEHIND, alone, generator.cut_feed(batch, row, slice(length)), 0)


def _measure_vectors(session: Session, pair: Pair) -> float | None:
    """Return how far apart the vectors of a pair are, or None if they are the same bits.

    Raises UnsupportedModelError if there is no output with one vector per text, as wide in both runs, or if it is not finite.
    """
    found, alone = session.run(pair.one), session.run(pair.other)
    for name, array in found.items():
        if isinstance(array, np.ndarray) and array.ndim == 2 and len(array) > pair.row and len(alone[name]) == 1:
            one, other = array[pair.row], alone[name][0]
            if one.shape == other.shape and np.isfinite(one).all() and np.isfinite(other).all():
                return None if one.tobytes() == other.tobytes() else measure_largest_difference(one, other)
    raise UnsupportedModelError("the model gives no vector per text")


def _find_operator(model: Model, pair: Pair) -> str | None:
    """Return the operator and the name of the first node, in the order of the graph, that differs; None if none does."""
    nodes = {name: node for node in model.proto.graph.node for name in node.output if name}
    names = list(nodes)
    try:
        session = open_session(model, extra_outputs=names)
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            one, other = session.run(pair.one, part), session.run(pair.other, part)
            for name in part:
                if _differ(one[name], other[name], pair):
                    return f"{nodes[name].op_type} {nodes[name].name or name}"
    except GraphSurgeryError:  # a value of the graph that cannot be an output
        return None
    return None


def _differ(one: object, other: object, pair: Pair) -> bool:
    """Return whether a value's part for the text of a pair differs. Values that are not of floats by text never do."""
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)) or one.dtype.kind != "f" or one.ndim != other.ndim:
        return False
    axes = [axis for axis in range(one.ndim) if one.shape[axis] != other.shape[axis]]
    if pair.what == BESIDE and len(axes) == 1:
        size = other.shape[axes[0]]
        part = one.take(range(pair.row * size, min((pair.row + 1) * size, one.shape[axes[0]])), axis=axes[0])
    elif pair.what == BEHIND:
        part = one[tuple(slice(size) for size in other.shape)]
    else:
        return False
    return bool(part.shape == other.shape and part.tobytes() != other.tobytes())
