"""Accessors for nodes of onnx-ir: typed attributes, inputs, subgraphs, and the tensor of a Constant node."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.operators import STANDARD
from graphsurgery.model.dtypes import compute_payload_size

VALUE_TYPES = {
    "value_int": onnx.TensorProto.INT64, "value_ints": onnx.TensorProto.INT64,
    "value_float": onnx.TensorProto.FLOAT, "value_floats": onnx.TensorProto.FLOAT,
}  # fmt: skip
"""The element type of a Constant node, by the attribute that holds its numbers."""


def get_int(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute of ``node``, or ``default`` if it is absent or of another type."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != ir.AttributeType.INT or attribute.is_ref():
        return default
    return int(attribute.value)


def get_float(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute, or ``default`` if the node has none of that name and type."""
    attribute = node.attributes.get(name)
    return attribute.as_float() if attribute is not None and attribute.type == ir.AttributeType.FLOAT else default


def get_ints(node: ir.Node, name: str) -> list[int] | None:
    """Return an attribute of ``node`` that is a list of integers, or None if it is absent."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != ir.AttributeType.INTS:
        return None
    return [int(number) for number in attribute.value]


def get_string(node: ir.Node, name: str) -> str | None:
    """Return a string attribute of ``node``, or None if it is absent."""
    attribute = node.attributes.get(name)
    return attribute.value if attribute is not None and isinstance(attribute.value, str) else None


def get_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return the input of ``node`` at ``index``, or None if the node has no such input."""
    return node.inputs[index] if index < len(node.inputs) else None


def list_graphs(attribute: ir.Attr) -> list[ir.Graph]:
    """Return the graphs that an attribute holds."""
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.value]
    return list(attribute.value) if attribute.type == ir.AttributeType.GRAPHS else []


def list_subgraphs(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that the attributes of ``node`` hold."""
    if not node.attributes:
        return []
    return [graph for attribute in node.attributes.values() for graph in list_graphs(attribute)]


def walk_subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield every graph within ``node``, at any depth."""
    for graph in list_subgraphs(node):
        yield graph
        for inner_node in graph:
            yield from walk_subgraphs(inner_node)


def get_constant_tensor(node: ir.Node) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node. None for other nodes, and for strings and sparse tensors."""
    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attributes) != 1 or len(node.outputs) != 1:
        return None
    (attribute,) = node.attributes.values()
    if attribute.is_ref():
        return None
    if attribute.name == "value":
        return to_tensor_proto(attribute.value)
    dtype = VALUE_TYPES.get(attribute.name)
    if dtype is None:
        return None
    array = np.asarray(attribute.value, onnx.helper.tensor_dtype_to_np_dtype(dtype))
    return onnx.numpy_helper.from_array(array, node.outputs[0].name or "")


def to_tensor_proto(tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """Return ``tensor`` as a TensorProto: the one it was read from, if any, so that a placeholder stays a placeholder."""
    return tensor.raw if isinstance(tensor, ir.TensorProtoTensor) else ir.serde.serialize_tensor(tensor)


def count_bytes(tensor: onnx.TensorProto) -> int | None:
    """Return how many bytes a tensor's elements take, or None for strings."""
    return compute_payload_size(tensor.data_type, tensor.dims)


def read_array(tensor: onnx.TensorProto) -> np.ndarray | None:
    """Return a tensor's elements, or None if it does not hold them: external data, or a placeholder for a large weight."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return None
    size = count_bytes(tensor)
    if size is None or (tensor.HasField("raw_data") and len(tensor.raw_data) != size):
        return None
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError):  # fewer elements than its dims ask for
        return None
