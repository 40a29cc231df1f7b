"""The last dim of a value, derived from the weights that made it and never from what the file declares."""

from __future__ import annotations

import onnx_ir as ir

from graphsurgery.graph.attributes import integer, read_at
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ELEMENTWISE, SCALE_INPUTS, UNARY, WIDE_AS_SECOND, operator

DEEPEST = 200
"""How many nodes back is looked, at most."""
Known = dict[ir.Value, int | None]


def last_dim(graph: Graph, value: ir.Value | None) -> int | None:
    """Return the size of the last dim of ``value``, or None where the graph's weights do not tell."""
    return _last_dim(graph, value, {}, 0)


def _last_dim(graph: Graph, value: ir.Value | None, known: Known, depth: int) -> int | None:
    """As `last_dim`; ``known`` holds what was looked at already."""
    if value is None or value in known:
        return known.get(value) if value is not None else None
    known[value] = None
    tensor, node = graph.tensor(value), value.producer()
    if tensor is not None:
        known[value] = int(tensor.dims[-1]) if tensor.dims else 1
    elif node is not None and depth < DEEPEST:
        known[value] = _from_node(graph, node, known, depth + 1)
    return known[value]


def _from_node(graph: Graph, node: ir.Node, known: Known, depth: int) -> int | None:
    kind = operator(node)
    if kind in SCALE_INPUTS:
        return _last_dim(graph, read_at(node, SCALE_INPUTS[kind]), known, depth)
    if kind in WIDE_AS_SECOND:
        return _last_dim(graph, read_at(node, 1), known, depth)
    if kind == "Gemm":
        weights = graph.tensor(read_at(node, 1))
        columns = 0 if integer(node, "transB", 0) else 1
        return int(weights.dims[columns]) if weights is not None and len(weights.dims) == 2 else None
    if kind == "Gather" and integer(node, "axis", 0) == 0:
        rows = read_at(node, 0)
        table = None if rows is None else graph.tensor(graph.origin(rows))
        return int(table.dims[-1]) if table is not None and len(table.dims) > 1 else None
    if kind in ELEMENTWISE:
        return _broadcast([_last_dim(graph, value, known, depth) for value in node.inputs])
    return _last_dim(graph, read_at(node, 0), known, depth) if kind in UNARY else None


def _broadcast(sizes: list[int | None]) -> int | None:
    """Return the last dim of operands of these last dims: the one that is not 1, where they agree on it."""
    wide = {size for size in sizes if size is not None and size > 1}
    if wide:
        return wide.pop() if len(wide) == 1 else None
    return 1 if sizes and all(size == 1 for size in sizes) else None
