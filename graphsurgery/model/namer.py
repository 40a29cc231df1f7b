"""One namer knows every name in a model: its graph, its subgraphs and its functions."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from graphsurgery.model.nodes import subgraphs


class Namer:
    """Gives names that nothing in the model has."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Namer:
        names: set[str] = set()
        training = [graph for one in model.training_info for graph in (one.initialization, one.algorithm)]
        for graph in (model.graph, *training):
            _collect(graph, names)
        for function in model.functions:
            names.update([function.name, *function.input, *function.output, *(info.name for info in function.value_info)])
            _collect_nodes(function.node, names)
        return cls(names)

    def new(self, wish: str) -> str:
        """``wish``, or ``wish`` with the smallest number that makes it new: ``pooling/sum``, ``pooling/sum.2``, ..."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}.{number}"
        self._taken.add(name)
        return name

    def has(self, name: str) -> bool:
        return name in self._taken


def _collect(graph: onnx.GraphProto, names: set[str]) -> None:
    for infos in (graph.input, graph.output, graph.value_info, graph.initializer):
        names.update(info.name for info in infos)
    for sparse in graph.sparse_initializer:
        names.update([sparse.values.name, sparse.indices.name])
    _collect_nodes(graph.node, names)


def _collect_nodes(nodes: Iterable[onnx.NodeProto], names: set[str]) -> None:
    for node in nodes:
        names.update([node.name, *node.input, *node.output])
        for graph in subgraphs(node):
            _collect(graph, names)
