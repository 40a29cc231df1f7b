"""The graphs within a graph, for the proof. They are found by the types of protobuf's fields. The edits share none of this."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx

from graphsurgery.errors import UnsupportedModelError

HOLDERS = frozenset(kind.DESCRIPTOR.full_name for kind in (onnx.GraphProto, onnx.NodeProto, onnx.AttributeProto))
"""The messages that can contain a graph."""


def find_subgraphs(message: Any) -> Iterator[onnx.GraphProto]:
    """Yield every graph inside a node or a graph, at any depth, but not ``message`` itself."""
    todo = [message]
    while todo:
        for field, value in todo.pop().ListFields():
            if field.message_type is None or field.message_type.full_name not in HOLDERS:
                continue
            inner = list(value) if field.is_repeated else [value]
            todo += inner
            yield from (one for one in inner if isinstance(one, onnx.GraphProto))


def list_all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a graph and of every graph within it."""
    return [*graph.node, *(node for inner in find_subgraphs(graph) for node in inner.node)]


def find_dependents(graph: onnx.GraphProto, name: str) -> set[str]:
    """Return the values of the main graph that are computed from ``name``, directly or through other nodes.

    ONNX demands that a node comes after those that make its inputs, so one pass in the graph's order finds them all. Some files
    of ONNX Runtime's optimizer are out of order, so passes are made until one finds nothing new.
    """
    pairs = [(list_read_values(node), {*filter(None, node.output)}) for node in graph.node]
    found, before = {name}, 0
    while len(found) > before:
        before = len(found)
        for taken, made in pairs:
            if not found.isdisjoint(taken):
                found |= made
    return found - {name}


def find_needed(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """Return the values ``names`` of the main graph, those that they are computed from, and what else the same nodes make."""
    needed, before = set(names), 0
    while len(needed) > before:
        before = len(needed)
        for node in reversed(graph.node):
            if not needed.isdisjoint(filter(None, node.output)):
                needed.update(filter(None, node.output), list_read_values(node))
    return needed


def drop_unread_inputs(graph: onnx.GraphProto, fed: Collection[str | None]) -> None:
    """Remove the nodes of ``graph`` that its outputs do not need, and weights and inputs that no node reads then.

    Inputs that are ``fed`` stay.
    """
    needed = find_needed(graph, (info.name for info in graph.output)) | {info.name for info in graph.input if info.name in fed}
    nodes = [node for node in graph.node if not needed.isdisjoint(node.output)]
    for field, left in (
        (graph.node, nodes),
        (graph.input, [one for one in graph.input if one.name in needed]),
        (graph.initializer, [one for one in graph.initializer if one.name in needed]),
    ):
        del field[:]
        field.extend(left)


def list_read_values(node: onnx.NodeProto) -> set[str]:
    """Return the values of the graph around ``node`` that it reads, also in the graphs within it."""
    return {*node.input, *_find_outer_values(node)} - {""}


def sort_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a graph, each after those that make what it reads. Raise UnsupportedModelError if there is no such
    order."""
    makers = {made: place for place, node in enumerate(graph.node) for made in node.output if made}
    needs = {
        place: {makers[name] for name in list_read_values(node) if name in makers} for place, node in enumerate(graph.node)
    }
    try:
        return [graph.node[place] for place in TopologicalSorter(needs).static_order()]
    except CycleError as error:
        raise UnsupportedModelError("a value of the graph is computed from itself", "export the model again") from error


def _find_outer_values(node: onnx.NodeProto) -> set[str]:
    """Return the values that the graphs in a node take from around them: all they read or give and do not define themselves."""
    outer: set[str] = set()
    for graph in (one for attribute in node.attribute for one in (attribute.g, *attribute.graphs)):
        own = {value.name for field in (graph.input, graph.initializer) for value in field}
        own.update(sparse.values.name for sparse in graph.sparse_initializer)
        own.update(name for inner in graph.node for name in inner.output)
        read = {value.name for value in graph.output}.union(*(inner.input for inner in graph.node))
        outer |= read.union(*map(_find_outer_values, graph.node)) - own
    return outer - {""}
