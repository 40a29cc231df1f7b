"""Nodes and tensors as the simplifications read them: attributes, subgraphs, what the standard says, constants' values."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx

from graphsurgery.model.dtypes import payload_size

STANDARD = ("", "ai.onnx")
"""The domain of the standard operators, in both spellings."""
RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
"""Operators that give something else every time."""
TRAINING = frozenset({"Dropout", "BatchNormalization"})
"""Operators that are random, or change what they are given, in training; as long as that is not ruled out they stay."""
FIELDS = {"value_int": onnx.TensorProto.INT64, "value_ints": onnx.TensorProto.INT64,
          "value_float": onnx.TensorProto.FLOAT, "value_floats": onnx.TensorProto.FLOAT}  # fmt: skip


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    """An attribute of ``node`` by its name."""
    return next((one for one in node.attribute if one.name == name), None)


def integers(node: onnx.NodeProto, name: str) -> list[int] | None:
    """A list of integers among the attributes, None where it is not given."""
    found = attribute(node, name)
    return None if found is None else [int(one) for one in found.ints]


@cache
def schema_of(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """What the standard says of an operator at ``opset``; None where it has no such operator, or has it no longer."""
    try:
        found = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node gives, None where that is no dense tensor of numbers."""
    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attribute) != 1 or len(node.output) != 1:
        return None
    (held,) = node.attribute
    if held.name == "value":
        return held.t
    if held.name not in FIELDS:
        return None
    array = np.asarray(onnx.helper.get_attribute_value(held), onnx.helper.tensor_dtype_to_np_dtype(FIELDS[held.name]))
    return onnx.numpy_helper.from_array(array, node.output[0])


def byte_size(tensor: onnx.TensorProto) -> int | None:
    """Bytes of a tensor's elements; None for strings."""
    return payload_size(tensor.data_type, tensor.dims)


def array_of(tensor: onnx.TensorProto) -> np.ndarray | None:
    """A tensor's values; None where they are not in it: external data, or a mark that stands for them in a skeleton."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return None
    size = byte_size(tensor)
    if size is None or (tensor.HasField("raw_data") and len(tensor.raw_data) != size):
        return None
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError):  # fewer elements than its dims ask for
        return None
