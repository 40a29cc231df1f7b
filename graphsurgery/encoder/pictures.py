"""Pictures as an input: what the first convolution says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.attributes import get_int, get_ints
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import BROADCASTING, COPYING, SHAPE_READING, get_operator
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

MOST_STEPS = 8
"""At most this many nodes (a shift and a scale of the pixels, a cast) come before the first convolution."""


@dataclass(frozen=True)
class Patches:
    """The patches that a model cuts pictures into: their number of channels, and how far they are apart in pixels."""

    channels: int
    step: int


def find_picture_input(values: Sequence[Value]) -> Value | None:
    """Return the first input of pictures, floats ``[batch, channels, height, width]``, or None."""
    return next((value for value in values if value.dtype in FLOATS and value.rank == 4), None)


def has_position_table(model: Model) -> bool:
    """Return whether the weights have a table ``[1, patches, hidden]``, which a model adds to the patches of one size alone."""
    return any(len(one.dims) == 3 and one.dims[0] == 1 < one.dims[1] for one in model.initializers.values())


def find_patches(model: Model, name: str) -> Patches | None:
    """Return the patches that the first convolution cuts the input ``name`` into, or None if there is no such convolution."""
    try:
        graph = Graph.of(model)
    except (MalformedModelError, UnsupportedModelError):
        return None
    value = graph.value(name)
    for _ in range(MOST_STEPS):
        consumers = [node for node in graph.consumers(value) if get_operator(node) not in SHAPE_READING] if value else []
        if len(consumers) != 1:
            return None
        operator = get_operator(consumers[0])
        if operator == "Conv":
            return _read_patches(graph, consumers[0])
        if operator not in BROADCASTING | COPYING:
            return None
        value = consumers[0].outputs[0]
    return None


def _read_patches(graph: Graph, node: ir.Node) -> Patches | None:
    weight = graph.constant(node.inputs[1])
    steps = get_ints(node, "strides") or [1]
    return Patches(int(weight.dims[1]) * get_int(node, "group", 1), max(steps)) if weight is not None else None
