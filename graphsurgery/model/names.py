"""The names in a model: in its graph, the subgraphs that nodes hold, and its functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


class Namer:
    """Creates names that are unused in the whole model."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Namer:
        names: set[str] = set()
        training = [graph for one in model.training_info for graph in (one.initialization, one.algorithm)]
        for graph in (model.graph, *training):
            _collect_graph_names(graph, names)
        for function in model.functions:
            names.update([function.name, *function.input, *function.output, *(info.name for info in function.value_info)])
            _collect_node_names(function.node, names)
        return cls(names)

    def new(self, wish: str) -> str:
        """Return ``wish`` if it is unused, else ``wish`` with the smallest number that is: ``pooling/sum``, ``pooling/sum.2``,
        ..."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}.{number}"
        self._taken.add(name)
        return name

    def has(self, name: str) -> bool:
        return name in self._taken


def _collect_graph_names(graph: onnx.GraphProto, names: set[str]) -> None:
    for infos in (graph.input, graph.output, graph.value_info, graph.initializer):
        names.update(info.name for info in infos)
    for sparse in graph.sparse_initializer:
        names.update([sparse.values.name, sparse.indices.name])
    _collect_node_names(graph.node, names)


def _collect_node_names(nodes: Iterable[onnx.NodeProto], names: set[str]) -> None:
    for node in nodes:
        names.update([node.name, *node.input, *node.output])
        for graph in list_subgraphs(node):
            _collect_graph_names(graph, names)


def list_subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs in a node's attributes, whatever type the attributes claim."""
    return [graph for one in node.attribute for graph in (*([one.g] if one.HasField("g") else []), *one.graphs)]


def walk_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every graph nested in it."""
    yield graph
    for node in graph.node:
        for inner in list_subgraphs(node):
            yield from walk_graphs(inner)


def walk_captured_names(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield the names that subgraphs of ``nodes`` read from the graphs around them. Names that a subgraph defines itself are
    left out, even if an outer graph defines them, too."""
    for node in nodes:
        for graph in list_subgraphs(node):
            own = {one.name for field in (graph.input, graph.initializer) for one in field}
            own.update(one.values.name for one in graph.sparse_initializer)
            own.update(name for inner in graph.node for name in inner.output)
            read = [info.name for info in graph.output]
            read += [name for inner in graph.node for name in inner.input]
            yield from (name for name in (*read, *walk_captured_names(graph.node)) if name and name not in own)


def list_read_names(node: onnx.NodeProto) -> set[str]:
    """Return the values that a node reads, including those that its subgraphs read from outer graphs."""
    return {name for name in (*node.input, *walk_captured_names([node])) if name}
