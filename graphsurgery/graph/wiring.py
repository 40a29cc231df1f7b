"""Who makes and who uses each value of a graph, read off the protobuf."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from graphsurgery.model.model import Model
from graphsurgery.model.nodes import reads, subgraphs

PASS_THROUGH = frozenset({"Cast", "CastLike", "Identity", "Dropout"})
"""Operators whose first output is their first input, element for element."""
RESHAPING = PASS_THROUGH | {"Reshape", "Unsqueeze", "Squeeze", "Flatten"}


@dataclass(frozen=True)
class Wiring:
    """The main graph of a model by value name."""

    producers: dict[str, onnx.NodeProto]
    initializers: dict[str, onnx.TensorProto]
    inputs: frozenset[str]

    @classmethod
    def of(cls, model: Model) -> Wiring:
        graph = model.proto.graph
        producers = {output: node for node in graph.node for output in node.output if output}
        initializers = dict(model.initializers)
        for node in graph.node:
            tensor = constant_value(node)
            if tensor is not None and node.output:
                initializers[node.output[0]] = tensor
        return cls(producers, initializers, frozenset(value.name for value in model.interface.inputs))

    def origin(self, name: str, through: frozenset[str] = PASS_THROUGH) -> str:
        """The value that ``name`` is a mere copy of, looking through operators of ``through``."""
        seen = set()
        while name not in seen and name in self.producers and self.producers[name].op_type in through:
            seen.add(name)
            name = self.producers[name].input[0]
        return name

    def origins(self, name: str, through: frozenset[str]) -> set[str]:
        """The graph inputs that ``name`` is computed from by operators of ``through`` alone."""
        found, seen, todo = set(), set(), [name]
        while todo:
            current = todo.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self.inputs:
                found.add(current)
            elif current in self.producers and self.producers[current].op_type in through:
                todo += self.producers[current].input
        return found

    def has(self, name: str) -> bool:
        """Whether the main graph has a value of that name."""
        return name in self.producers or name in self.inputs or name in self.initializers


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor that a Constant node holds, or None."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def attribute_int(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of ``node``."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        yield from within(node)


def downstream(graph: onnx.GraphProto, name: str) -> set[str]:
    """Every value of the main graph that ``name`` goes into."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for taken in reads(node):
            users.setdefault(taken, []).append(node)
    found, todo = {name}, [name]
    while todo:
        new = {one for node in users.get(todo.pop(), ()) for one in node.output if one} - found
        found |= new
        todo += new
    return found - {name}


def within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Every node of the subgraphs that ``node`` holds."""
    for graph in subgraphs(node):
        yield from all_nodes(graph)
