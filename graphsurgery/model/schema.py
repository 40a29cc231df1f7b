"""The fields of ONNX messages that can hold a tensor, read off onnx's own descriptors.

No list here is made by hand: a new place for tensors in a later onnx (as sparse initializers, attributes, subgraphs and
function defaults once were) is found automatically.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import onnx

TENSOR = onnx.TensorProto.DESCRIPTOR
MODEL = onnx.ModelProto.DESCRIPTOR
GRAPH = onnx.GraphProto.DESCRIPTOR
RAW_DATA = TENSOR.fields_by_name["raw_data"].number
PAYLOAD_FIELDS = frozenset(
    TENSOR.fields_by_name[name].number
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
)
DEEPEST_MESSAGE = 100
"""How deep messages may nest: the limit of protobuf's own parsers."""


@cache
def find_tensor_fields(message: Any) -> dict[int, Any]:
    """Return the fields of ``message`` (number -> message type) that can contain a TensorProto at any depth."""
    return {
        field.number: field.message_type
        for field in message.fields
        if field.message_type is not None and _can_hold_tensor(field.message_type)
    }


@cache
def list_tensor_fields(message: Any) -> tuple[tuple[str, bool, Any], ...]:
    """Return the fields of `find_tensor_fields` as (field name, repeated, message type)."""
    holders = find_tensor_fields(message)
    return tuple((field.name, field.is_repeated, field.message_type) for field in message.fields if field.number in holders)


@cache
def _can_hold_tensor(message: Any) -> bool:
    seen: set[str] = set()
    todo = [message]
    while todo:
        current = todo.pop()
        if current.full_name == TENSOR.full_name:
            return True
        if current.full_name not in seen:
            seen.add(current.full_name)
            todo += [field.message_type for field in current.fields if field.message_type is not None]
    return False


def walk_tensors(message: Any, path: str = "") -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield every TensorProto in ``message``, at any depth, with a readable path such as ``graph.node[3].attribute[0].t``."""
    if message.DESCRIPTOR.full_name == TENSOR.full_name:
        yield path, message
        return
    for name, repeated, _ in list_tensor_fields(message.DESCRIPTOR):
        if repeated:
            for index, child in enumerate(getattr(message, name)):
                yield from walk_tensors(child, f"{path}.{name}[{index}]" if path else f"{name}[{index}]")
        elif message.HasField(name):
            yield from walk_tensors(getattr(message, name), f"{path}.{name}" if path else name)
