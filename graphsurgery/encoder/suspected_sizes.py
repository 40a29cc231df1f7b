"""Suspect sizes in a graph that fit only one batch or sequence size, although the file declares both free.

A shape that holds as many numbers as the widest weights give belongs to heads and hidden sizes. One that holds more, or begins
with a number, fits one size alone; so does a table whose dim meets a free one. A suspicion decides nothing: a run does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from graphsurgery.deferred import ir
from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import BROADCASTING, SHAPED, get_operator
from graphsurgery.graph.symbolic import Size, Sizes, read_literals
from graphsurgery.model.model import Model


def list_suspected_sizes(model: Model) -> list[int]:
    """Return the numbers in shapes and tables that fit one size alone, and then those in other shapes.

    The list is empty if there is no such shape or table.
    """
    try:
        graph = Graph.of(model)
        facts = Facts(graph)
    except (MalformedModelError, UnsupportedModelError):
        return []
    widths = {int(size) for tensor in model.initializers.values() if len(tensor.dims) == 2 for size in tensor.dims}
    suspected = dict.fromkeys(size for node in graph.nodes for size in _list_misfits(facts, node, widths))
    if not suspected:
        return []
    shapes = [_read_shape(facts, node) for node in graph.nodes]
    suspected |= dict.fromkeys(size for shape in shapes for size in _list_literals(shape))
    return list(suspected)


def _list_misfits(facts: Facts, node: ir.Node, widths: set[int]) -> Iterator[int]:
    """Yield the numbers in a shape or table that only one size fits."""
    operator, shape = get_operator(node), _read_shape(facts, node)
    if shape and read_literals(facts[node.inputs[0]].dims) is None:
        literals = _list_literals(shape)
        begins_with_number = len(shape) > 2 and isinstance(shape[0], int) and shape[0] > 0 and operator == "Reshape"
        product = math.prod(literals)
        if begins_with_number or not any(width % product == 0 for width in {1, *widths}):
            yield from (1, *literals)
    elif operator == "RotaryEmbedding" and len(node.inputs) == 3:  # its tables are not broadcast to the batch
        rows = (facts[node.inputs[1]].dims or (1,))[0]
        if isinstance(rows, int):
            yield rows
    elif operator in BROADCASTING:
        known = [dims for value in node.inputs if (dims := facts[value].dims) is not None]
        for axis in range(1, max(map(len, known), default=0) + 1):
            sizes = [dims[-axis] for dims in known if len(dims) >= axis]
            if any(isinstance(size, str) for size in sizes):
                yield from _list_literals(sizes)


def _read_shape(facts: Facts, node: ir.Node) -> Sizes:
    """Return the shape that a node makes of its first input, as far as it is known."""
    return facts.numbers(node.inputs[1]) or () if len(node.inputs) > 1 and get_operator(node) in SHAPED else ()


def _list_literals(sizes: Sequence[Size]) -> list[int]:
    return [size for size in sizes if isinstance(size, int) and size > 1]
