"""Count the operators of a model, with the bytes of the weights that they read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx

from graphsurgery.graph.operators import get_short_name
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.model import Model
from graphsurgery.model.names import walk_graphs


@dataclass(frozen=True)
class OperatorCount:
    """An operator, the number of its nodes, and the bytes of the weights that these nodes read or hold."""

    name: str
    """The operator, without its domain if that is the standard's or ONNX Runtime's own."""
    nodes: int
    weight_bytes: int
    """A weight that several operators read counts once for each of these operators."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "nodes": self.nodes, "weight_bytes": self.weight_bytes}


def count_operators(model: Model) -> tuple[OperatorCount, ...]:
    """Count the operators of the graph, its subgraphs and the model's own functions, the commonest first."""
    sizes = {name: size for graph in walk_graphs(model.proto.graph) for name, size in _list_weights(graph)}
    counts: Counter[str] = Counter()
    read: dict[str, set[str]] = defaultdict(set)
    held: Counter[str] = Counter()
    for node in _walk_nodes(model.proto):
        name = get_short_name(node)
        counts[name] += 1
        read[name].update(sizes.keys() & set(node.input))
        held[name] += sum(_compute_size(one.t) for one in node.attribute if one.HasField("t"))
    return tuple(
        OperatorCount(name, count, held[name] + sum(sizes[one] for one in read[name])) for name, count in counts.most_common()
    )


def _walk_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    bodies: Iterable[Iterable[onnx.NodeProto]] = (
        *(graph.node for graph in walk_graphs(proto.graph)), *(function.node for function in proto.functions)
    )  # fmt: skip
    return (node for body in bodies for node in body)


def _list_weights(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield the weights of a graph with their bytes, apart from the graphs inside it."""
    for tensor in graph.initializer:
        yield tensor.name, _compute_size(tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, _compute_size(sparse.values) + _compute_size(sparse.indices)


def _compute_size(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor, 0 for strings, which have no fixed size."""
    return compute_payload_size(tensor.data_type, tensor.dims) or 0
