"""Merge what is in the graph twice: nodes that compute the same from the same inputs, and equal constants."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_constant_tensor, list_subgraphs
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import RANDOM, TRAINING, get_operator
from graphsurgery.graph.schemas import find_schema
from graphsurgery.rewrites.simplify.constants import is_inside

Key = tuple[object, ...]
LOOK = 256
"""The number of bytes that are compared before a whole tensor is read."""


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
    for value, key in _key_constants(work):
        if key not in first:
            first[key] = value
        else:
            work.replace_uses(value, first[key])
            merged += 1
    return merged


def _key_constants(work: Editor) -> Iterator[tuple[ir.Value, Key]]:
    """Yield the constants that could be merged, with a key that is equal for equal ones.

    Large ones are read whole only if another one has the same type, dims and first bytes.
    """
    tensors = [(value, tensor) for value in list(_list_constants(work)) if (tensor := _get_mergeable(work, value)) is not None]
    looks = Counter(_look_at(tensor) for _, tensor in tensors)
    for value, tensor in tensors:
        array = work.array(value)
        if array is not None:
            yield value, (tensor.data_type, array.shape, array.tobytes())
        elif looks[_look_at(tensor)] > 1 and tensor.HasField("raw_data") and is_inside(tensor):
            yield value, (*_look_at(tensor), hashlib.sha256(tensor.raw_data).digest())


def _get_mergeable(work: Editor, value: ir.Value) -> onnx.TensorProto | None:
    return work.constant(value) if value.name not in work.pinned else None


def _look_at(tensor: onnx.TensorProto) -> Key:
    """Return what is equal for equal tensors and quickly read."""
    return tensor.data_type, tuple(tensor.dims), tensor.raw_data[:LOOK]


def _list_constants(work: Editor) -> Iterator[ir.Value]:
    """Return the constants that are read, each before any node that reads it."""
    given = [node.outputs[0] for node in work.nodes if get_constant_tensor(node) is not None]
    held = (*work.main.initializers.values(), *given)
    return (value for value in held if work.constant(value) is not None and work.consumers(value))
