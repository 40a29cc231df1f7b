"""Masks that hide the wrong numbers: a `Where` with a condition ``[batch, frames]`` and values ``[batch, frames, channels]``.

ONNX aligns shapes at their ends, so that the condition meets frames and channels in place of batch and frames. Such a node
fails in most runs. Where the sizes happen to fit, it runs and hides channels in place of frames. fairseq's
``x[padding_mask] = 0`` is exported in this form.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.edits.fixed_sizes import lift_sizes
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import get_operator
from graphsurgery.model.model import Model
from graphsurgery.model.reach import cut_model
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.media_sizes import MOST_WEIGHTS
from graphsurgery.runtime.session import open_session

CONDITION_RANK, VALUE_RANK = 2, 3
SHAPES = ((2, 5), (3, 7))
"""Rows and columns of the feeds on which a suspected node is tried. All sizes are different."""
LOG = logging.getLogger(__name__)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Misaligned:
    """A `Where` node, by its name and its output, and the values that it reads."""

    node: str
    output: str
    condition: str
    chosen: str
    """What it gives where the condition holds."""
    other: str
    """What it gives elsewhere."""


def list_suspects(model: Model) -> Iterator[tuple[Misaligned, tuple[str, ...]]]:
    """Yield the `Where` nodes that may have this fault, in the order of the graph, each with the computed values it reads.

    The ranks of the condition and the values decide, as far as they are known.
    """
    graph = Graph.of(model)
    facts = Facts(graph)
    for node in graph.nodes:
        if get_operator(node) != "Where" or not node.outputs[0].name:
            continue
        condition, *values = node.inputs
        computed = [value for value in values if value is not None and graph.tensor(value) is None]
        ranks = [_find_rank(facts, value) for value in computed]
        is_computed = condition is not None and graph.tensor(condition) is None
        if is_computed and _find_rank(facts, condition) in (CONDITION_RANK, None) and {VALUE_RANK, None} & set(ranks):
            names = [value.name or "" if value is not None else "" for value in node.inputs]
            found = Misaligned(node.name or node.outputs[0].name, node.outputs[0].name, *names)
            yield found, tuple(value.name or "" for value in computed)


def _find_rank(facts: Facts, value: ir.Value | None) -> int | None:
    dims = facts[value].dims
    return None if dims is None else len(dims)


def is_misaligned(model: Model, suspect: Misaligned, values: tuple[str, ...]) -> bool:
    """Run ``model`` up to a suspected node, and return whether its condition belongs to the frames of ``values``.

    The condition then has their first two sizes in every run, and in some run ONNX cannot align it as it stands. Sizes that are
    only declared do not bind these runs. A model that is too large is not run, and one that does not run up to the node shows
    nothing: False.
    """
    if model.weight_bytes > MOST_WEIGHTS:
        return False
    part = cut_model(model, list(dict.fromkeys((suspect.condition, *values))))
    for one in (lift_sizes(part), part):
        try:
            shapes = list(_list_shapes(one, suspect.condition, values))
        except (GraphSurgeryError, MemoryError) as error:
            LOG.debug("%s cannot be tried: %s", suspect.node, error)
            continue
        return all(_has_leading_sizes(*one) for one in shapes) and any(not _can_align(*one) for one in shapes)
    return False


def _list_shapes(part: Model, condition: str, values: tuple[str, ...]) -> Iterator[tuple[Shape, list[Shape]]]:
    """Yield the shapes of a condition and of the values that it chooses from, in one run for each of `SHAPES`."""
    generator, session = make_feed_generator_for(part, find_roles(part.interface)), open_session(part)
    for rows, columns in SHAPES:
        size = generator.fixed_batch or rows, generator.fixed_sequence or columns
        found = session.run(generator.generate(np.ones(size, dtype=np.bool_), seed=0))
        yield found[condition].shape, [found[name].shape for name in values]


def _has_leading_sizes(condition: Shape, values: list[Shape]) -> bool:
    wide = [shape for shape in values if len(shape) == VALUE_RANK]
    return len(condition) == CONDITION_RANK and bool(wide) and all(shape[:CONDITION_RANK] == condition for shape in wide)


def _can_align(condition: Shape, values: list[Shape]) -> bool:
    try:
        np.broadcast_shapes(condition, *values)
    except ValueError:
        return False
    return True
