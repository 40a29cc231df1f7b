"""A model as onnx-ir can import it: what it does not hold is left out, for `Editor` writes the source's own messages anyway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.nodes import all_graphs

NOT_HELD = (onnx.AttributeProto.UNDEFINED, onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
"""Types of attributes that onnx-ir refuses."""


def importable(source: onnx.GraphProto) -> onnx.GraphProto:
    """Return ``source``, or where onnx-ir would refuse something in it, a copy without that.

    A text stands in the place of an attribute that is left out: the element type, as a number, of a sparse tensor.
    """
    if not any(True for _ in _refused(source)):
        return source
    copy = onnx.GraphProto()
    copy.CopyFrom(source)
    for message, field in list(_refused(copy)):
        if isinstance(message, onnx.AttributeProto):
            kind = message.sparse_tensor.values.data_type
            message.CopyFrom(onnx.AttributeProto(name=message.name, type=onnx.AttributeProto.STRING, s=str(kind).encode()))
        else:
            message.ClearField(field)
    return copy


def _refused(source: onnx.GraphProto) -> Iterator[tuple[Any, str]]:
    """Every message that onnx-ir cannot import or write as it is, and the field that is at fault."""
    for graph in all_graphs(source):
        yield from ((info, "type") for info in (*graph.input, *graph.output, *graph.value_info) if not _is_held(info.type))
        for node in graph.node:
            yield from ((node, name) for name in ("name", "doc_string") if not _is_text(getattr(node, name)))
            if not all(_is_text(entry.key) and _is_text(entry.value) for entry in node.metadata_props):
                yield node, "metadata_props"
            yield from ((one, "") for one in node.attribute if one.type in NOT_HELD or not all(map(_is_text, one.strings)))


def _is_held(kind: onnx.TypeProto) -> bool:
    """Return whether onnx-ir holds a type: no map, nothing made of maps or of no type, no element type that there is not."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        inner = getattr(kind, which).elem_type
        return inner.WhichOneof("value") is not None and _is_held(inner)
    if which in ("tensor_type", "sparse_tensor_type"):
        return getattr(kind, which).elem_type in NAMES
    return which is None


def _is_text(text: str | bytes) -> bool:
    """Return whether protobuf gave, or could give, a text."""
    if isinstance(text, str):
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
