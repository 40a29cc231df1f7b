"""Importing a graph into onnx-ir, which does not hold everything that a file may contain.

Whatever onnx-ir would refuse is left out of the import. `Editor` writes the source's own messages anyway.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import MalformedModelError, UnsupportedModelError
from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.names import walk_graphs
from graphsurgery.model.parsing import shorten

NOT_HELD = (onnx.AttributeProto.UNDEFINED, onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
"""Types of attributes that onnx-ir refuses."""


def import_graph(source: onnx.GraphProto) -> ir.Graph:
    """Import ``source``.

    Raises MalformedModelError if a name stands for two values, UnsupportedModelError if onnx-ir refuses the graph.
    """
    _check_defined_once(source)
    with _hide_warnings():
        try:
            return ir.serde.deserialize_graph(_make_importable(source))
        except ir.serde.SerdeError as error:
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            what = f"onnx-ir cannot import this graph: {shorten(str(reason).partition(chr(10))[0])}"
            raise UnsupportedModelError(what, "export the model again") from error


def _check_defined_once(graph: onnx.GraphProto) -> None:
    """Raise MalformedModelError if a name stands for two values, because such a graph has no definite meaning."""
    inputs = {info.name for info in graph.input}
    initializers = {one.name for one in graph.initializer} - inputs
    sparse = (one.values.name for one in graph.sparse_initializer)
    outputs = (name for node in graph.node for name in node.output if name)
    repeated = [name for name, count in Counter([*inputs, *initializers, *sparse, *outputs]).items() if count > 1]
    if repeated:
        raise MalformedModelError(f"the graph defines {shorten(repeated[0])!r} twice", "export the model again")


def _make_importable(source: onnx.GraphProto) -> onnx.GraphProto:
    """Return ``source``, or a copy of it without the parts that onnx-ir would refuse.

    An attribute that is left out is replaced by a text: for a sparse tensor, the number of its element type.
    """
    if next(_find_refused(source), None) is None:
        return source
    copy = onnx.GraphProto()
    copy.CopyFrom(source)
    for message, field in list(_find_refused(copy)):
        if isinstance(message, onnx.AttributeProto):
            dtype = message.sparse_tensor.values.data_type
            message.CopyFrom(onnx.AttributeProto(name=message.name, type=onnx.AttributeProto.STRING, s=str(dtype).encode()))
        else:
            message.ClearField(field)
    return copy


def _find_refused(source: onnx.GraphProto) -> Iterator[tuple[Any, str]]:
    """Yield every message that onnx-ir cannot import or write as it is, with the field that is at fault."""
    for graph in walk_graphs(source):
        yield from ((info, "type") for info in (*graph.input, *graph.output, *graph.value_info) if not _is_held(info.type))
        for node in graph.node:
            yield from ((node, name) for name in ("name", "doc_string") if not _is_text(getattr(node, name)))
            if not all(_is_text(entry.key) and _is_text(entry.value) for entry in node.metadata_props):
                yield node, "metadata_props"
            yield from ((one, "") for one in node.attribute if one.type in NOT_HELD or not all(map(_is_text, one.strings)))


def _is_held(kind: onnx.TypeProto) -> bool:
    """Return whether onnx-ir holds a type. It holds no maps, no sequences of maps or of nothing, no unknown element types."""
    which = kind.WhichOneof("value")
    if which in ("sequence_type", "optional_type"):
        inner = getattr(kind, which).elem_type
        return inner.WhichOneof("value") is not None and _is_held(inner)
    if which in ("tensor_type", "sparse_tensor_type"):
        return getattr(kind, which).elem_type in NAMES
    return which is None


def _is_text(text: str | bytes) -> bool:
    """Return whether ``text`` is valid UTF-8. protobuf gives bytes where it is not."""
    if isinstance(text, str):
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


_HIDES_WARNINGS = ContextVar("_HIDES_WARNINGS", default=False)
logging.getLogger("onnx_ir.serde").addFilter(lambda _: not _HIDES_WARNINGS.get())


@contextmanager
def _hide_warnings() -> Iterator[None]:
    """Keep onnx-ir's warnings about invalid graphs off the terminal, in this thread."""
    token = _HIDES_WARNINGS.set(True)
    try:
        yield
    finally:
        _HIDES_WARNINGS.reset(token)
