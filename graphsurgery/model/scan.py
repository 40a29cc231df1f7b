"""Scanning a model file's protobuf without reading its weights.

Fields below `SMALLEST_PAYLOAD` bytes are kept as they are, since they cannot hold a payload. Only larger ones are looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import onnx

from graphsurgery.errors import MalformedModelError
from graphsurgery.model import wire
from graphsurgery.model.parsing import check_weight, make_depth_error, parse, shorten
from graphsurgery.model.records import GRAPH_FIELD, Chunk, Document, Payloads, Record, Span, measure_chunk
from graphsurgery.model.schema import (
    DEEPEST_MESSAGE,
    GRAPH,
    MODEL,
    PAYLOAD_FIELDS,
    RAW_DATA,
    TENSOR,
    find_tensor_fields,
    list_tensor_fields,
)
from graphsurgery.model.sources import ByteSource, MemoryBytes

SMALLEST_PAYLOAD = 1024
"""Tensor data of fewer bytes (shapes, axes, scalars) count as graph: they stay in the skeleton and its fingerprint."""
LARGEST_SKELETON = 40 << 20
"""Upper limit on bytes beside tensor data: exports with a stack trace for each of 15,000 nodes stay below it. Up to five copies
of the skeleton exist while a model is loaded."""
LIGHT = 1 << 20
"""Skeletons of fewer bytes are not weighed: one of their bytes takes at most a hundred once parsed."""
MOST_RECORDS = 1 << 18
"""Upper limit on the fields walked, each about two microseconds and 200 bytes. Ten times the number in the largest embedding
models."""


def scan(source: ByteSource) -> Document:
    """Return the document in ``source``. The cost depends on the graph, not on the weights.

    Raises MalformedModelError if the bytes are not a protobuf message, hold no graph or more than one, nest deeper than
    `DEEPEST_MESSAGE`, or hold more than `LARGEST_SKELETON` bytes beside tensor payloads.
    """
    if source.size == 0:
        raise MalformedModelError("the file is empty", "download or export it again")
    scanner = _Scanner(source, Payloads())
    model: list[Record] = []
    graph: list[Record] | None = None
    for field in scanner.fields(0, source.size):
        if field.number != GRAPH_FIELD:
            model.append(scanner.scan_field(field, MODEL))
        elif graph is not None or field.wire_type != wire.LENGTH_DELIMITED:
            raise MalformedModelError("the model holds more than one graph field", "write it again with onnx.save")
        else:
            graph = [scanner.scan_field(child, GRAPH) for child in scanner.fields(field.value, field.end)]
            model.append(Record(GRAPH_FIELD, (), scanner.read_literal(field.start, field.value)))
    if graph is None:
        raise MalformedModelError("the file holds no graph", "give an ONNX model (.onnx), not a tensor or another protobuf")
    if scanner.kept > LIGHT:
        parts = ((MODEL, record.skeleton) for record in model if record.field != GRAPH_FIELD)
        check_weight(chain(parts, ((GRAPH, record.skeleton) for record in graph)))
    return Document(tuple(model), tuple(graph), scanner.payloads)


def expand(skeleton: bytes, message: Any, payloads: Payloads) -> tuple[Chunk, ...]:
    """Return the chunks of a message whose large payloads are placeholders. This undoes `scan`."""
    if payloads.token not in skeleton:
        return (skeleton,)
    return tuple(_expand(MemoryBytes(skeleton), 0, len(skeleton), message, payloads))


def make_record(number: int, content: bytes, message: Any, payloads: Payloads) -> Record:
    """Return a new record whose value is ``content``, a serialised ``message``.

    Payloads in it are placeholders of known ones, or new ones found as `scan` finds them, so the fingerprint is the same before
    and after saving.
    """
    if payloads.token not in content:
        source = MemoryBytes(wire.encode_header(number, len(content)) + content)
        scanner = _Scanner(source, payloads)
        return scanner.scan_message(next(scanner.fields(0, source.size)), message)
    chunks = expand(content, message, payloads)
    head = wire.encode_header(number, sum(map(measure_chunk, chunks)))
    return Record(number, _join_literals([head, *chunks]), wire.encode_header(number, len(content)) + content)


class _Scanner:
    """One walk over one source. It counts the bytes that it keeps in memory."""

    def __init__(self, source: ByteSource, payloads: Payloads) -> None:
        self.source = source
        self.payloads = payloads
        self.kept = 0
        self.records = 0

    def fields(self, start: int, end: int) -> Iterator[wire.Field]:
        return wire.read_fields(self.source, start, end)

    def read_literal(self, start: int, end: int) -> bytes:
        """Return bytes to keep: those of one field, or only its tag and length if the field is looked into."""
        self.records += 1
        self.kept += end - start
        if self.records > MOST_RECORDS:
            raise MalformedModelError(f"the model has more than {MOST_RECORDS} parts", "no exporter writes such a file")
        if self.kept > LARGEST_SKELETON:
            raise MalformedModelError(
                f"the file holds more than {LARGEST_SKELETON >> 20} MiB beside tensor data",
                "look for oversized strings or metadata in it",
            )
        return self.source.read(start, end - start)

    def scan_field(self, field: wire.Field, message: Any) -> Record:
        if field.end - field.value < SMALLEST_PAYLOAD:  # as `_split_field` would, but there can be a hundred thousand of them
            data = self.read_literal(field.start, field.end)
            return Record(field.number, (data,), data)
        return self._make_record(field, *self._split_field(field, message, depth=2))

    def scan_message(self, field: wire.Field, message: Any) -> Record:
        """Return a record like `scan_field`, for a field whose value is a ``message``."""
        return self._make_record(field, *self._split_message(field, message, depth=3))

    @staticmethod
    def _make_record(field: wire.Field, chunks: Sequence[Chunk], skeleton: Sequence[bytes]) -> Record:
        if skeleton is chunks:
            data = b"".join(skeleton)
            return Record(field.number, (data,), data)
        return Record(field.number, _join_literals(chunks), b"".join(skeleton))

    def _split_field(self, field: wire.Field, message: Any, depth: int) -> tuple[Sequence[Chunk], Sequence[bytes]]:
        """Return chunks and skeleton of one field of ``message``, header included. Without a payload they are the same list."""
        if field.length >= SMALLEST_PAYLOAD and field.wire_type == wire.LENGTH_DELIMITED:
            if message is TENSOR and field.number in PAYLOAD_FIELDS:
                return self._replace_payload(field)
            inner = find_tensor_fields(message).get(field.number)
            if inner is not None:
                return self._split_message(field, inner, depth + 1)
        literal = [self.read_literal(field.start, field.end)]
        return literal, literal

    def _split_message(self, field: wire.Field, message: Any, depth: int) -> tuple[Sequence[Chunk], Sequence[bytes]]:
        if depth > DEEPEST_MESSAGE:
            raise make_depth_error()
        chunks: list[Chunk] = [self.read_literal(field.start, field.value)]
        skeleton: list[bytes] = []
        seen: list[int] = []
        for child in self.fields(field.value, field.end):
            child_chunks, child_skeleton = self._split_field(child, message, depth)
            chunks += child_chunks
            skeleton += child_skeleton
            seen.append(child.number)
        _check_not_repeated(message, seen)
        literals = [chunk for chunk in chunks if isinstance(chunk, bytes)]
        if len(literals) == len(chunks):
            return literals, literals
        if message is TENSOR:
            self._type_payload(chunks, parse(onnx.TensorProto, b"".join(skeleton)), seen)
        return chunks, [wire.encode_header(field.number, sum(map(len, skeleton))), *skeleton]

    def _replace_payload(self, field: wire.Field) -> tuple[Sequence[Chunk], Sequence[bytes]]:
        span = Span(self.source, field.value, field.length, wire_field=field.number)
        mark = self.payloads.mark(span)
        return [self.read_literal(field.start, field.value), span], [wire.encode_header(RAW_DATA, len(mark)) + mark]

    def _type_payload(self, chunks: list[Chunk], tensor: onnx.TensorProto, seen: list[int]) -> None:
        """Set the element type of a tensor's payload, known only after the whole tensor has been walked."""
        pieces = sum(number in PAYLOAD_FIELDS for number in seen)
        if pieces > 1:
            name = shorten(tensor.name)
            raise MalformedModelError(f"tensor {name!r}: its data come in {pieces} pieces", "write the file again")
        index, span = next((index, chunk) for index, chunk in enumerate(chunks) if isinstance(chunk, Span))
        typed = replace(span, data_type=tensor.data_type)
        chunks[index] = typed
        self.payloads.replace(tensor.raw_data, typed)


def _check_not_repeated(message: Any, seen: list[int]) -> None:
    """Check that no singular message field comes twice: protobuf merges two of them, perhaps a placeholder and other data."""
    for name, repeated, _ in list_tensor_fields(message):
        if not repeated and seen.count(message.fields_by_name[name].number) > 1:
            raise MalformedModelError(f"{message.name}.{name} occurs more than once", "write the file again with onnx.save")


def _expand(source: MemoryBytes, start: int, end: int, message: Any, payloads: Payloads) -> list[Chunk]:
    chunks: list[Chunk] = []
    for field in wire.read_fields(source, start, end):
        data = source.read(field.start, field.end - field.start)
        inner = find_tensor_fields(message).get(field.number)
        if message is TENSOR and field.number == RAW_DATA:
            span = payloads.find_by_mark(source.read(field.value, field.length))
            chunks += [data] if span is None else [wire.encode_header(span.wire_field, span.length), span]
        elif inner is not None and payloads.token in data:
            nested = _expand(source, field.value, field.end, inner, payloads)
            chunks += [wire.encode_header(field.number, sum(map(measure_chunk, nested))), *nested]
        else:
            chunks.append(data)
    return chunks


def _join_literals(chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    """Join neighbouring literals."""
    out: list[Chunk] = []
    literals: list[bytes] = []
    for chunk in chunks:
        if isinstance(chunk, bytes):
            literals.append(chunk)
            continue
        if literals:
            out.append(b"".join(literals))
            literals = []
        out.append(chunk)
    return (*out, b"".join(literals)) if literals else tuple(out)
