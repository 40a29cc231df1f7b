"""Whether a text's vector is the same bits in any batch, and if not, how far apart, and which operator is the first to differ.

Where it is, a cache or an index holds exactly what another run gives. It depends on the machine and on ONNX Runtime, which may
add in another order if there are more rows. So it is tried and reported, and never judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import LONG, make_mask
from graphsurgery.runtime.session import Session, open_session

BESIDE, BEHIND = "other texts in the batch", "padding behind it"
AT_ONCE = 32
"""The number of values to look at in one run."""
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two feeds that should give the text in ``row`` of the first, and the only text of the second, the same vector."""

    what: str
    """What the first has in addition: `BESIDE` or `BEHIND`."""
    one: Values
    other: Values
    row: int


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
        return [f"a text's vector is not the same bits in any batch: up to {worst:.1e} apart with {where.what}{first}"]
    behind = " and with any padding behind it" if generator.has_mask else ""
    return [
        f"a text's vector is the same bits in any batch{behind}, as tried here on texts of up to {_width(generator)} tokens"
    ]


def _width(generator: FeedGenerator) -> int:
    return generator.sizes.fit_width(LONG)


def _list_pairs(generator: FeedGenerator) -> Iterator[Pair]:
    """Yield each text in a batch beside itself alone, and with padding behind it beside itself without."""
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
                return None if one.tobytes() == other.tobytes() else _measure_difference(one, other)
    raise UnsupportedModelError("the model gives no vector per text")


def _measure_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64)), initial=0.0))


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
