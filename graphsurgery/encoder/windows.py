"""Local attention: how far a token can look, where a graph limits that."""

from __future__ import annotations

import onnx

from graphsurgery.graph.wiring import Wiring, all_nodes, constant_value
from graphsurgery.model.model import Model

COMPARING = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
ARITHMETIC = (
    "Abs", "Add", "Cast", "Expand", "Identity", "Mul", "Neg", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators between positions and the comparison that makes a window of them."""
WINDOW_ATTRIBUTES = ("local_window_size", "window", "sliding_window")
WIDEST = 1 << 20
"""A number beyond this is no window: masks are compared with such numbers, too."""


def largest_window(model: Model) -> int | None:
    """The largest number that positions, or differences of positions, are compared with; None where there is none.

    A comparison that has another purpose (relative position buckets, say) only makes the result larger than it need be.
    """
    nodes = list(all_nodes(model.proto.graph))
    comparisons = [node for node in nodes if node.op_type in COMPARING]
    found = [one.i for node in nodes for one in node.attribute if one.name in WINDOW_ATTRIBUTES]
    if comparisons:
        inside = {node.output[0]: tensor for node in nodes if (tensor := constant_value(node)) is not None}
        constants = Wiring.of(model).initializers | inside
        producers = {output: node for node in nodes for output in node.output if output}
        found += [_size(model, one) for node in comparisons for one in _constants(node, constants, producers)]
    return max((one for one in found if 0 < one <= WIDEST), default=None)


def _constants(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], producers: dict[str, onnx.NodeProto]
) -> list[onnx.TensorProto]:
    """The constants of one number that go into a comparison through arithmetic alone."""
    found, seen, todo = [], set(), list(node.input)
    while todo:
        name = todo.pop()
        if name in constants:
            found += [constants[name]] if _is_one_number(constants[name]) else []
        elif name in producers and name not in seen and producers[name].op_type in ARITHMETIC:
            todo += producers[name].input
        seen.add(name)
    return found


def _size(model: Model, tensor: onnx.TensorProto) -> int:
    """A whole number without its sign; 0 for what is none."""
    value = float(model.values(tensor).reshape(-1)[0])
    return abs(int(value)) if value.is_integer() else 0


def _is_one_number(tensor: onnx.TensorProto) -> bool:
    numeric = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    return tensor.data_type in numeric and all(size == 1 for size in tensor.dims)
