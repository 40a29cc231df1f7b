"""Merge what is in the graph twice: nodes that compute the same from the same inputs, and equal small constants."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphsurgery.graph.attributes import get_constant_tensor, list_subgraphs
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import RANDOM, TRAINING, get_operator
from graphsurgery.graph.schemas import find_schema

Key = tuple[object, ...]


def merge_duplicates(work: Editor, _: Facts) -> int:
    """Replace equal nodes and equal constants by the first one of them, and return how many were replaced."""
    return _merge_constants(work) + _merge_nodes(work)


def _merge_nodes(work: Editor) -> int:
    """Replace equal nodes by the first one of them."""
    merged, first = 0, dict[Key, ir.Node]()
    for node in work.nodes:
        if not _is_repeatable(work, node):
            continue
        key = _make_key(work, node)
        if key not in first:
            first[key] = node
        elif work.replace_node(node, first[key].outputs):
            merged += 1
    return merged


def _is_repeatable(work: Editor, node: ir.Node) -> bool:
    """Return whether the standard says that a node gives equal results for equal inputs."""
    if not work.is_standard(node) or list_subgraphs(node) or get_operator(node) in RANDOM | TRAINING:
        return False
    return get_constant_tensor(node) is None and find_schema(get_operator(node), work.opset) is not None


def _make_key(work: Editor, node: ir.Node) -> Key:
    """Return a key that is equal for nodes that can be merged: they also have the same outputs, kept for the same reason."""
    attributes = sorted((name, ir.serde.serialize_attribute(one).SerializeToString()) for name, one in node.attributes.items())
    outputs = [(bool(value.name), work.protected.get(value.name or "")) for value in node.outputs]
    return node.op_type, node.overload, *node.inputs, None, *outputs, None, *attributes


def _merge_constants(work: Editor) -> int:
    """Replace equal constants by the first one of them. Equal means the same type, the same dims and every bit."""
    merged, first = 0, dict[Key, ir.Value]()
    for value in list(_list_constants(work)):
        array = work.array(value) if value.name not in work.pinned else None
        tensor = work.constant(value)
        if array is None or tensor is None:
            continue
        key = tensor.data_type, array.shape, array.tobytes()
        if key not in first:
            first[key] = value
        else:
            work.replace_uses(value, first[key])
            merged += 1
    return merged


def _list_constants(work: Editor) -> Iterator[ir.Value]:
    """Return the constants that are read, each before any node that reads it."""
    given = [node.outputs[0] for node in work.nodes if get_constant_tensor(node) is not None]
    held = (*work.main.initializers.values(), *given)
    return (value for value in held if work.constant(value) is not None and work.consumers(value))
