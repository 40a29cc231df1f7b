"""The graphs that nodes hold, and what these take from the graphs around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that ``node`` holds, whatever type its attributes say they are of."""
    return [graph for one in node.attribute for graph in (*([one.g] if one.HasField("g") else []), *one.graphs)]


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def taken(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """The names that subgraphs of ``nodes`` take from the graphs around them. What a subgraph makes itself is not among them,
    whatever else has the same name outside."""
    for node in nodes:
        for graph in subgraphs(node):
            own = {one.name for field in (graph.input, graph.initializer) for one in field}
            own.update(one.values.name for one in graph.sparse_initializer)
            own.update(name for inner in graph.node for name in inner.output)
            read = [info.name for info in graph.output]
            read += [name for inner in graph.node for name in inner.input]
            yield from (name for name in (*read, *taken(graph.node)) if name and name not in own)


def reads(node: onnx.NodeProto) -> set[str]:
    """The values that a node takes, those that its subgraphs take from around them, too."""
    return {name for name in (*node.input, *taken([node])) if name}
