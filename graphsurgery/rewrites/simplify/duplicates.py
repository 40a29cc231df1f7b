"""What is there twice: nodes that do the same with the same, and equal small constants."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from graphsurgery.graph.editor import Workspace
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.reading import RANDOM, TRAINING, constant_tensor, schema_of
from graphsurgery.model.nodes import subgraphs

Key = tuple[object, ...]


def merge_duplicates(work: Workspace, _: Facts) -> int:
    """Let one of what is equal stand for all; how many went."""
    return _merge_constants(work) + _merge_nodes(work)


def _merge_nodes(work: Workspace) -> int:
    """The first of equal nodes stands for the others."""
    merged, first = 0, dict[Key, onnx.NodeProto]()
    for node in work.nodes:
        if not _is_repeatable(work, node):
            continue
        key = _key(work, node)
        if key not in first:
            first[key] = node
        elif work.substitute(node, list(first[key].output)):
            merged += 1
    return merged


def _is_repeatable(work: Workspace, node: onnx.NodeProto) -> bool:
    """Whether a node gives the same whenever it is given the same, as the standard has it."""
    if not work.is_standard(node) or subgraphs(node) or node.op_type in RANDOM | TRAINING:
        return False
    return constant_tensor(node) is None and schema_of(node.op_type, work.opset) is not None


def _key(work: Workspace, node: onnx.NodeProto) -> Key:
    """Equal for nodes that do the same; which of the outputs there are belongs to it, and what these are kept for."""
    attributes = sorted((one.name, one.SerializeToString()) for one in node.attribute)
    outputs = [(bool(name), work.kept.get(name)) for name in node.output]
    return node.op_type, node.overload, *node.input, None, *outputs, None, *attributes


def _merge_constants(work: Workspace) -> int:
    """The first of equal constants stands for the others; equal are type, dims and every bit."""
    merged, first = 0, dict[Key, str]()
    for name in list(_constants(work)):
        array = work.array(name) if name not in work.pinned else None
        if array is None:
            continue
        key = work.constants[name].data_type, array.shape, array.tobytes()
        if key not in first:
            first[key] = name
        else:
            work.reroute(name, first[key])
            merged += 1
    return merged


def _constants(work: Workspace) -> Iterator[str]:
    """The names of constants that are read, each before any node that reads it."""
    held = [one.name for one in work.graph.initializer]
    given = [node.output[0] for node in work.nodes if constant_tensor(node) is not None]
    return (name for name in dict.fromkeys((*held, *given)) if name in work.constants and work.readers(name))
