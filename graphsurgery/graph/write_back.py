"""A rewritten graph as a document: what the rewrite kept are the source's own bytes, its weights where they lie.

The optimizer works on a copy whose large weights are marks (see `Payloads`); only those that it may read are there. What comes
back is taken apart into records: a mark is the source's payload again, and stays where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx

from graphsurgery.model.dtypes import payload_size
from graphsurgery.model.filling import filled
from graphsurgery.model.model import Model
from graphsurgery.model.records import GRAPH_FIELD, Document, Record
from graphsurgery.model.scan import record_of
from graphsurgery.model.schema import GRAPH, MODEL

REWRITTEN = ("node", "initializer", "value_info", "input", "output")
"""Fields of a graph that a rewrite may change."""
LARGEST_INLINE = 128 << 20
"""Bytes of weights that are all given to the optimizer, which takes a dozen times as much; beyond that those that it merges or
looks at."""
LARGEST_FOLDED = 1_500 << 20
"""Bytes of weights that are all read where constants are folded, which takes no copies of them."""
SMALL = 1 << 20
UNKNOWN = 1 << 62
"""Stands for the size of what has no fixed one."""
LARGEST_TABLE = 256 << 20
"""Bytes of an embedding table that is given beyond that: the optimizer reads all of it to learn how wide it is."""


def load_for_rewrite(model: Model, largest: int = LARGEST_INLINE, small: int = SMALL) -> onnx.ModelProto:
    """The graph for a rewrite to work on, with the weights that it may read.

    All of them up to ``largest`` bytes; beyond that what has at most ``small`` (1 MiB), matrices that share their input with
    two others, as those of queries, keys and values do, and tables of at most `LARGEST_TABLE` bytes that rows are taken from.
    The others are marks, whose values cannot be read.
    """
    if model.weight_bytes <= largest:
        return filled(model.proto, model)
    merged, tables = _merged(model.proto.graph), find_lookup_tables(model.proto.graph)

    def is_read(tensor: onnx.TensorProto) -> bool:
        size, name = _size(tensor), tensor.name
        return size <= small or name in merged or (name in tables and size <= LARGEST_TABLE)

    return filled(model.proto, model, is_read)


def _size(tensor: onnx.TensorProto) -> int:
    size = payload_size(tensor.data_type, tensor.dims)
    return UNKNOWN if size is None else size


def _merged(graph: onnx.GraphProto) -> set[str]:
    """The matrices by which one value is multiplied more than twice."""
    by_input: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type == "MatMul":
            by_input.setdefault(node.input[0], []).append(node.input[1])
    return {name for names in by_input.values() if len(names) > 2 for name in names}


def find_lookup_tables(graph: onnx.GraphProto) -> set[str]:
    """What rows are taken from: embedding tables, among others."""
    return {node.input[0] for node in graph.node if node.op_type == "Gather"}


def to_document(model: Model, given: onnx.ModelProto, made: onnx.ModelProto) -> Document:
    """Return ``made``, a rewrite of ``given``, which `with_weights` gave of ``model``, as a document.

    A node, tensor, declared value, opset or function that is what it was in ``given`` is the source's own record. All else of
    the model is the source's.
    """
    source = model.document

    def rewritten(names: Sequence[str], kind: Any, before: Any, after: Any, records: Sequence[Record]) -> tuple[Record, ...]:
        fields = {}
        for name in names:
            number = kind.fields_by_name[name].number
            own = (one for one in records if one.field == number)
            old: dict[bytes, list[Record]] = {}
            for key, record in zip(_keys(getattr(before, name)), own, strict=True):
                old.setdefault(key, []).append(record)
            fields[number] = tuple(_records(number, getattr(after, name), old, source))
        return tuple(_in_place(records, fields))

    graph = rewritten(REWRITTEN, GRAPH, given.graph, made.graph, source.graph)
    return Document(rewritten(("opset_import", "functions"), MODEL, given, made, source.model), graph, source.payloads)


def _keys(messages: Iterable[Any]) -> Iterator[bytes]:
    return (_digest(message.SerializeToString(deterministic=True)) for message in messages)


def _digest(content: bytes) -> bytes:
    """In place of bytes that would be held twice."""
    return hashlib.sha256(content).digest()


def _records(number: int, messages: Iterable[Any], old: dict[bytes, list[Record]], source: Document) -> Iterator[Record]:
    """Give each message's own record of ``old``, or a new one; of equal ones each has its own, in order."""
    for message in messages:
        content = message.SerializeToString(deterministic=True)
        own = old.get(_digest(content))
        yield own.pop(0) if own else record_of(number, content, message.DESCRIPTOR, source.payloads)


def _in_place(records: Sequence[Record], fields: dict[int, tuple[Record, ...]]) -> Iterator[Record]:
    """Give ``records`` with those of ``fields`` in the place of their own: where the first of each stood, at the end where none
    did. A field whose records are what they were stays as it lies."""
    left = {
        number: new for number, new in fields.items() if new != tuple(record for record in records if record.field == number)
    }
    changed = frozenset(left)
    for record in records:
        if record.field not in changed or record.field == GRAPH_FIELD:
            yield record
        elif record.field in left:
            yield from left.pop(record.field)
    for rest in left.values():
        yield from rest
