"""Loading a model for a rewrite, and turning the rewritten graph into a document.

A rewrite works on a copy of the model in which large weights that it need not read are placeholders (see `Payloads`). In the
document, everything that the rewrite kept is the source's own bytes. A placeholder stands for the source's payload again, which
stays where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import onnx

from graphsurgery.graph.operators import VENDOR
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.model import Model, fill_weights
from graphsurgery.model.records import GRAPH_FIELD, Document, Record
from graphsurgery.model.scan import make_record
from graphsurgery.model.schema import GRAPH, MODEL

REWRITTEN = ("node", "initializer", "value_info", "input", "output")
"""Fields of a graph that a rewrite may change."""
LARGEST_INLINE = 128 << 20
"""The optimizer gets all weights up to this many bytes, and takes a dozen times as much memory. Of larger models, it gets only
the weights that it merges or looks at."""
LARGEST_FOLDED = 1_500 << 20
"""Constant folding gets all weights up to this many bytes, and makes no copies of them."""
SMALL = 1 << 20
LARGEST_TABLE = 256 << 20
"""The optimizer gets embedding tables up to this many bytes: it reads a whole table to learn how wide it is."""


def load_for_rewrite(model: Model, largest: int = LARGEST_INLINE, small: int = SMALL) -> onnx.ModelProto:
    """Return ``model`` with the weights that a rewrite may read. The others are placeholders, whose values cannot be read.

    These are all weights if they take at most ``largest`` bytes. Otherwise they are the weights of at most ``small`` bytes
    (1 MiB), the matrices that share their input with two others, as those of queries, keys and values do, and the tables of at
    most `LARGEST_TABLE` bytes from which rows are looked up.
    """
    if model.weight_bytes <= largest:
        return fill_weights(model.proto, model)
    merged, tables = _find_merged_matrices(model.proto.graph), find_lookup_tables(model.proto.graph)

    def is_read(tensor: onnx.TensorProto) -> bool:
        if tensor.name in merged:
            return True
        size = compute_payload_size(tensor.data_type, tensor.dims)
        return size is not None and size <= (max(small, LARGEST_TABLE) if tensor.name in tables else small)

    return fill_weights(model.proto, model, is_read)


def _find_merged_matrices(graph: onnx.GraphProto) -> set[str]:
    """Return the matrices with which one value is multiplied in more than two products."""
    by_input: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type == "MatMul":
            by_input.setdefault(node.input[0], []).append(node.input[1])
    return {name for names in by_input.values() if len(names) > 2 for name in names}


def find_lookup_tables(graph: onnx.GraphProto) -> set[str]:
    """Return the values from which rows are looked up, such as embedding tables."""
    return {node.input[0] for node in graph.node if node.op_type == "Gather"}


def to_document(model: Model, before: onnx.ModelProto, after: onnx.ModelProto) -> Document:
    """Return ``after``, a rewrite of ``before``, as a document. `load_for_rewrite` made ``before`` from ``model``.

    A node, tensor, declared value, opset or function that is unchanged is the source's own record. So is everything else of the
    model that a rewrite does not change.
    """
    source = model.document

    def rewrite(names: Sequence[str], kind: Any, old: Any, new: Any, records: Sequence[Record]) -> tuple[Record, ...]:
        fields = {}
        for name in names:
            number = kind.fields_by_name[name].number
            unused: dict[bytes, list[Record]] = {}
            for message, record in zip(getattr(old, name), (one for one in records if one.field == number), strict=True):
                unused.setdefault(_hash(_serialize(message)), []).append(record)
            fields[number] = tuple(_make_records(number, getattr(new, name), unused, source))
        return tuple(_replace_fields(records, fields))

    graph = rewrite(REWRITTEN, GRAPH, before.graph, after.graph, source.graph)
    return Document(rewrite(("opset_import", "functions"), MODEL, before, after, source.model), graph, source.payloads)


def replace_graph(model: Model, made: onnx.ModelProto) -> Model:
    """Return ``model`` with the graph of ``made``, which was made of ``model.proto``. It may use ONNX Runtime's operators."""
    if count_vendor_operators(made) and not any(one.domain == VENDOR for one in made.opset_import):
        made.opset_import.append(onnx.helper.make_opsetid(VENDOR, 1))
    return replace(model, document=to_document(model, model.proto, made), loaded=None)


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def _hash(content: bytes) -> bytes:
    """Return a digest to compare by, so that the content need not be kept."""
    return hashlib.sha256(content).digest()


def _make_records(
    number: int, messages: Iterable[Any], unused: dict[bytes, list[Record]], source: Document
) -> Iterator[Record]:
    """Yield each message's own record from ``unused``, or a new one. Equal messages take their records in order."""
    for message in messages:
        content = _serialize(message)
        own = unused.get(_hash(content))
        yield own.pop(0) if own else make_record(number, content, message.DESCRIPTOR, source.payloads)


def _replace_fields(records: Sequence[Record], fields: dict[int, tuple[Record, ...]]) -> Iterator[Record]:
    """Yield ``records`` with those of ``fields`` in place of their own.

    The new records stand where the first record of their field stood, or at the end if there was none. If nothing in a field
    changes, its records stay where they are.
    """
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
