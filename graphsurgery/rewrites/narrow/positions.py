"""Find the operators that take one position of an axis, and which position they take.

The position is the same number in every row (class tokens), or is computed for each row (the first or the last token of a mask,
the token with the largest id). An operator that takes several positions of a row is none of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int, get_ints, read_array
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import BROADCASTING, COPYING, RESHAPING, get_operator
from graphsurgery.graph.shape_rules import TO_THE_END
from graphsurgery.graph.sizes import BATCH, Dim, Dims, Layout, multiply

ONE = (1, 1)
ROW_STEPS = RESHAPING | {"Expand"}
"""Operators between the numbers of the rows and the coordinates in which they stand."""


@dataclass(frozen=True)
class Position:
    """One position for each row of a batch."""

    number: int | None = None
    """The position if it is the same in every row. A negative number counts from the end."""
    index: ir.Value | None = None
    """The value with the positions of the rows, if they are computed."""
    column: int | None = None
    """The index along the last axis of ``index`` at which the positions stand. None if ``index`` is ``[batch]`` or has only
    dims of one after the batch."""


@dataclass(frozen=True)
class Taking:
    """A node that takes one position of ``value`` along ``axis``."""

    node: ir.Node
    value: ir.Value
    axis: int
    position: Position


def find_takings(graph: Graph, layout: Layout) -> list[Taking]:
    """Return every node that takes one position of its first input."""
    return list(_walk_takings(graph, layout))


def _walk_takings(graph: Graph, layout: Layout) -> Iterator[Taking]:
    for node in graph.nodes:
        find = FINDERS.get(get_operator(node)) if graph.is_standard(node) else None
        value = get_input(node, 0)
        dims = layout.dims(value)
        found = find(graph, layout, node, dims) if find is not None and dims is not None else None
        if found is not None and value is not None:
            axis, position = found
            yield Taking(node, value, axis, _count_from_start(position, dims, axis))


Found = tuple[int, Position] | None


def read_index(layout: Layout, node: ir.Node, rank: int) -> tuple[int, int] | None:
    """Return the axis and the index of ``Gather(x, i, axis)`` with a single number i, and x of ``rank`` dims."""
    indices = layout.literals(node.inputs[1])
    is_one = indices is not None and len(indices) == 1 and layout.dims(node.inputs[1]) in ((), (ONE,))
    return (get_int(node, "axis", 0) % rank, indices[0]) if is_one and indices else None


def read_slice(layout: Layout, node: ir.Node, rank: int) -> tuple[int, int, int] | None:
    """Return axis, start and end of ``Slice(x, start, end, axis)`` along one axis in steps of one, and x of ``rank`` dims."""
    starts, ends, axes, steps = (
        layout.literals(get_input(node, place)) if get_input(node, place) is not None else get_ints(node, name)
        for place, name in ((1, "starts"), (2, "ends"), (3, "axes"), (4, "steps"))
    )
    if starts is None or ends is None or len(starts) != 1 or (steps or [1]) != [1] or len(axes or [0]) != 1:
        return None
    return (axes or [0])[0] % rank, starts[0], ends[0]


def _find_gathered(graph: Graph, layout: Layout, node: ir.Node, dims: Dims) -> Found:
    """Read ``Gather(x, i, axis)`` with a single number i."""
    found = read_index(layout, node, len(dims))
    return (found[0], Position(found[1])) if found is not None and dims[found[0]] != ONE else None


def _find_sliced(graph: Graph, layout: Layout, node: ir.Node, dims: Dims) -> Found:
    """Read ``Slice(x, i, i + 1, axis)``."""
    found = read_slice(layout, node, len(dims))
    if found is None:
        return None
    axis, start, end = found
    is_one = end == start + 1 and (start >= 0 or end < 0)
    is_last = start == -1 and end >= TO_THE_END
    return (axis, Position(start)) if (is_one or is_last) and dims[axis] != ONE else None


def _find_gathered_elements(graph: Graph, layout: Layout, node: ir.Node, dims: Dims) -> Found:
    """Read ``GatherElements(x [batch, seq, dim], index [batch, 1, dim], 1)`` with an index that is the same along dim."""
    index = node.inputs[1]
    if index is None or get_int(node, "axis", 0) % len(dims) != 1 or len(dims) != 3 or dims[0] != BATCH:
        return None
    if layout.dims(index) != (BATCH, ONE, dims[2]) or not _is_uniform(graph, layout, index, 2):
        return None
    return 1, Position(index=index, column=0)


def _find_gathered_vectors(graph: Graph, layout: Layout, node: ir.Node, dims: Dims) -> Found:
    """Read ``GatherND(x [batch, seq, dim], i)`` with one position a row, or with pairs of the row's number and a position."""
    index, skipped = node.inputs[1], get_int(node, "batch_dims", 0)
    index_dims = layout.dims(index)
    if index is None or index_dims is None or dims[0] != BATCH or len(dims) < 2:
        return None
    if skipped == 1 and index_dims in ((BATCH, ONE), (BATCH, ONE, ONE)):
        return 1, Position(index=index)
    if skipped or index_dims not in ((BATCH, (2, 2)), (BATCH, ONE, (2, 2))):
        return None
    pair = index.producer()
    is_pair = pair is not None and get_operator(pair) == "Concat" and len(pair.inputs) == 2
    if pair is None or not is_pair or get_int(pair, "axis", 0) % len(index_dims) != len(index_dims) - 1:
        return None
    return (1, Position(index=index, column=1)) if _counts_rows(layout, pair.inputs[0]) else None


def _find_flattened(graph: Graph, layout: Layout, node: ir.Node, dims: Dims) -> Found:
    """Read ``Gather(y, i + seq * (0, 1, ..., batch - 1))`` of a value ``x [batch, seq, dim]`` that ``node`` joins to y.

    ``y [batch * seq, dim]`` may not be read by anything else.
    """
    readers = graph.all_consumers(node.outputs[0])
    if len(dims) != 3 or dims[0] != BATCH or len(readers) != 1 or node.outputs[0].is_graph_output():
        return None
    gathered = readers[0]
    joined = (multiply(dims[:2]), dims[2])
    if get_operator(gathered) != "Gather" or get_int(gathered, "axis", 0) or layout.dims(node.outputs[0]) != joined:
        return None
    total = gathered.inputs[1].producer() if gathered.inputs[0] is node.outputs[0] and gathered.inputs[1] else None
    if total is None or get_operator(total) != "Add" or layout.dims(total.outputs[0]) != (BATCH,):
        return None
    for index, start in (total.inputs, total.inputs[::-1]):
        if layout.dims(index) == (BATCH,) and _counts_rows(layout, start, dims[1]):
            return 1, Position(index=index)
    return None


FINDERS = {
    "Flatten": _find_flattened, "Reshape": _find_flattened, "Gather": _find_gathered, "Slice": _find_sliced,
    "GatherElements": _find_gathered_elements, "GatherND": _find_gathered_vectors,
}  # fmt: skip


def _count_from_start(position: Position, dims: Dims | None, axis: int) -> Position:
    """Return the same position counted from the start, if the axis has a known size."""
    size = dims[axis] if dims is not None else None
    if position.number is None or position.number >= 0 or size is None or size[0] != size[1]:
        return position
    return Position(position.number + size[0])


def _counts_rows(layout: Layout, value: ir.Value | None, step: Dim | None = ONE) -> bool:
    """Return whether ``value`` holds 0, 1, ..., batch - 1, the number of each row, times ``step``."""
    if value is None or (node := value.producer()) is None or step is None:
        return False
    operator, given = get_operator(node), get_input(node, 0)
    if operator == "Range":
        bounds = [layout.literals(one) for one in (node.inputs[0], node.inputs[2])]
        return step == ONE and bounds == [[0], [1]] and layout.dims(value) == (BATCH,)
    if operator == "Mul":
        pairs = (node.inputs, node.inputs[::-1])
        return any(layout.numbers(other) == [[one] for one in step] and _counts_rows(layout, rows) for rows, other in pairs)
    has_batch = BATCH in (layout.dims(given) or ())
    return operator in ROW_STEPS and has_batch and _counts_rows(layout, given, step)


def _is_uniform(graph: Graph, layout: Layout, value: ir.Value | None, axis: int) -> bool:
    """Return whether the elements of ``value`` are certainly the same all along ``axis``."""
    dims = layout.dims(value)
    if value is None or dims is None:
        return False
    if axis < 0 or dims[axis] == ONE:
        return True
    tensor = graph.constant(value)
    if tensor is not None:
        array = read_array(tensor)
        return array is not None and bool(np.all(array == np.take(array, [0], axis)))
    node = value.producer()
    if node is None or not graph.is_standard(node):
        return False
    operator = get_operator(node)
    if operator == "ConstantOfShape":
        return True
    if operator in COPYING:
        return _is_uniform(graph, layout, node.inputs[0], axis)
    if operator in BROADCASTING or operator == "Expand":
        given = node.inputs[:1] if operator == "Expand" else node.inputs
        ranks = [layout.dims(one) for one in given]
        places = zip(given, ranks, strict=True)
        return all(own is not None and _is_uniform(graph, layout, one, axis - len(dims) + len(own)) for one, own in places)
    return False
