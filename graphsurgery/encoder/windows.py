"""Local attention: how far a token can look, where a graph limits that."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.graph.attributes import constant_tensor, integer
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import COMPARING, POSITION_STEPS, operator
from graphsurgery.model.model import Model

WINDOW_ATTRIBUTES = ("local_window_size", "window", "sliding_window")
WIDEST = 1 << 20
"""A number beyond this is no window: masks are compared with such numbers, too."""


def largest_window(model: Model) -> int | None:
    """Return the largest number that positions, or differences of positions, are compared with; None where there is none.

    A comparison that has another purpose (relative position buckets, say) only makes the result larger than it need be.
    None is found in a malformed graph: ONNX Runtime runs some of these.
    """
    try:
        graph, found = Graph.of(model), [0]
    except (MalformedModelError, UnsupportedModelError):
        return None
    for node in graph.main.all_nodes():
        found += [integer(node, name, 0) for name in WINDOW_ATTRIBUTES]
        if operator(node) in COMPARING:
            found += [_size(model, tensor) for tensor in _constants(graph, node)]
    return max((one for one in found if 0 < one <= WIDEST), default=None)


def _constants(graph: Graph, node: ir.Node) -> Iterator[onnx.TensorProto]:
    """The constants of one number that go into a comparison through arithmetic alone."""
    seen, todo = set(), list(node.inputs)
    while todo:
        value = todo.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        tensor = graph.tensor(value)
        if tensor is None and producer is not None:  # a constant of a graph within a node
            tensor = constant_tensor(producer)
        if tensor is not None:
            yield from (tensor,) if _is_one_number(tensor) else ()
        elif producer is not None and operator(producer) in POSITION_STEPS:
            todo += producer.inputs


def _size(model: Model, tensor: onnx.TensorProto) -> int:
    """Return a whole number without its sign; 0 for what is none."""
    value = float(model.values(tensor).reshape(-1)[0])
    return abs(int(value)) if value.is_integer() else 0


def _is_one_number(tensor: onnx.TensorProto) -> bool:
    numeric = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return tensor.data_type in numeric and all(size == 1 for size in tensor.dims)
