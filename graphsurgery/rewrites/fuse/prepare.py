"""Prepare a graph so that the optimizer's patterns match. Nothing changes in what the graph computes."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import COPYING, JOINING_HEADS, WEIGHT_PRODUCTS, operator

FURTHEST = 8
"""Nodes back from a sum to the heads of its attention, at most."""


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with the operands of ``x + attention(x)`` swapped where ``x`` adds a bias itself.

    If the first operand of a sum adds a bias, the optimizer looks for an attention there and nowhere else. In ALBERT the first
    layer adds its attention to the mapped embeddings, and the optimizer misses the layer. Returns ``model`` itself if there is
    no such sum.
    """
    if not any(map(_must_be_swapped, Graph(model).nodes)):
        return model
    editor = Editor(model)
    for node in [node for node in editor.nodes if _must_be_swapped(node)]:
        editor.rewire(node, node.inputs[::-1])
    return editor.finish()


def _must_be_swapped(node: ir.Node) -> bool:
    if operator(node) != "Add" or len(node.inputs) != 2:
        return False
    first, second = map(_maker, node.inputs)
    return _is_linear(first) and not _attends(first) and _attends(second)


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_linear(node: ir.Node | None) -> bool:
    """Whether a node adds a bias to a matrix product."""
    if node is None or operator(node) != "Add":
        return False
    return any((made := _maker(value)) is not None and operator(made) in WEIGHT_PRODUCTS for value in node.inputs)


def _attends(node: ir.Node | None) -> bool:
    """Whether a node ends an attention: a bias and a matrix product of heads that were joined by Transpose and Reshape."""
    passing = COPYING | {"Add"}
    for _ in range(FURTHEST):
        if node is None:
            return False
        if operator(node) in JOINING_HEADS:
            return True
        if operator(node) in passing:
            makers = [made for value in node.inputs if (made := _maker(value)) is not None]
            node = next((one for one in makers if operator(one) in WEIGHT_PRODUCTS | passing), None)
        elif operator(node) in WEIGHT_PRODUCTS:
            node = _maker(node.inputs[0])
        else:
            return False
    return False
