"""What nodes of onnx-ir hold: attributes, the graphs within them, the tensor of a Constant."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from graphsurgery.graph.operators import STANDARD
from graphsurgery.model.dtypes import payload_size

GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
LISTS = {"value_ints": onnx.TensorProto.INT64, "value_floats": onnx.TensorProto.FLOAT}
NUMBERS = {"value_int": onnx.TensorProto.INT64, "value_float": onnx.TensorProto.FLOAT}


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute of ``node``; ``default`` where it is left out or of another type."""
    found = node.attributes.get(name)
    return int(found.value) if found is not None and found.type == ir.AttributeType.INT and not found.is_ref() else default


def integers(node: ir.Node, name: str) -> list[int] | None:
    """Return a list of integers among the attributes; None where it is left out."""
    found = node.attributes.get(name)
    return [int(one) for one in found.value] if found is not None and found.type == ir.AttributeType.INTS else None


def text(node: ir.Node, name: str) -> str | None:
    """Return a text among the attributes; None where it is left out."""
    found = node.attributes.get(name)
    return found.value if found is not None and isinstance(found.value, str) else None


def read_at(node: ir.Node, place: int) -> ir.Value | None:
    """Return the value that ``node`` reads at ``place``; None where it reads none there."""
    return node.inputs[place] if place < len(node.inputs) else None


def graphs_in(attribute: ir.Attr) -> list[ir.Graph]:
    """Return the graphs that an attribute holds; none where it holds something else."""
    if attribute.type not in GRAPHS or attribute.is_ref():
        return []
    return [attribute.value] if attribute.type == ir.AttributeType.GRAPH else list(attribute.value)


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that ``node`` holds."""
    return [graph for one in node.attributes.values() for graph in graphs_in(one)]


def graphs_within(node: ir.Node) -> Iterator[ir.Graph]:
    """Every graph that ``node`` holds, at any depth."""
    for graph in graphs_of(node):
        yield graph
        for inner in graph:
            yield from graphs_within(inner)


def constant_tensor(node: ir.Node) -> onnx.TensorProto | None:
    """Return what a Constant node gives; None where that is no dense tensor of numbers."""
    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attributes) != 1 or len(node.outputs) != 1:
        return None
    (held,) = node.attributes.values()
    if held.is_ref():
        return None
    if held.name == "value":
        return tensor_proto(held.value)
    dtype = (LISTS | NUMBERS).get(held.name)
    if dtype is None:
        return None
    array = np.asarray(held.value, onnx.helper.tensor_dtype_to_np_dtype(dtype))
    return onnx.numpy_helper.from_array(array, node.outputs[0].name or "")


def tensor_proto(tensor: ir.TensorProtocol) -> onnx.TensorProto:
    """Return the very TensorProto behind ``tensor`` where it was read from one, so that a mark in it stays a mark."""
    return tensor.raw if isinstance(tensor, ir.TensorProtoTensor) else ir.serde.serialize_tensor(tensor)


def byte_size(tensor: onnx.TensorProto) -> int | None:
    """Return the bytes of a tensor's elements; None for strings."""
    return payload_size(tensor.data_type, tensor.dims)


def array_of(tensor: onnx.TensorProto) -> np.ndarray | None:
    """Return a tensor's elements; None where they are not in it: external data, or a mark that stands for them."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return None
    size = byte_size(tensor)
    if size is None or (tensor.HasField("raw_data") and len(tensor.raw_data) != size):
        return None
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError):  # fewer elements than its dims ask for
        return None


@cache
def schema_of(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return what the standard says of an operator at ``opset``; None where it has no such operator, or has it no longer."""
    try:
        found = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found
