"""A model file in memory: every field as its exact bytes, with large tensor payloads left in the file.

A *chunk* is literal bytes or a `Span` (bytes that lie elsewhere). A *record* is one field of the ModelProto or of its graph:
its exact bytes as chunks, and its *skeleton*, the same field with each payload replaced by a short placeholder, which protobuf
can parse. A *document* is the records of a whole file.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from graphsurgery.model import wire
from graphsurgery.model.parsing import parse
from graphsurgery.model.schema import MODEL
from graphsurgery.model.sources import ByteSource

GRAPH_FIELD = MODEL.fields_by_name["graph"].number
MARK_INDEX_BYTES = 8
HASHED_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's payload: ``length`` bytes at ``offset`` of ``source``, of the ONNX element type ``data_type``."""

    source: ByteSource
    offset: int
    length: int
    data_type: int = 0
    wire_field: int = 0
    """Number of the TensorProto field that holds the payload (raw_data, float_data, ...)."""

    def read(self) -> bytes:
        self.source.check_unchanged()
        return self.source.read(self.offset, self.length)


Chunk = bytes | Span


def measure_chunk(chunk: Chunk) -> int:
    return len(chunk) if isinstance(chunk, bytes) else chunk.length


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One field of a message. Records are compared by identity: an edit that keeps a field keeps the same record."""

    field: int
    chunks: tuple[Chunk, ...]
    skeleton: bytes

    @property
    def size(self) -> int:
        return sum(map(measure_chunk, self.chunks))

    @property
    def spans(self) -> list[Span]:
        """The record's payloads, in order."""
        return [chunk for chunk in self.chunks if isinstance(chunk, Span)]

    @property
    def has_payload(self) -> bool:
        return any(isinstance(chunk, Span) for chunk in self.chunks)

    @property
    def content(self) -> bytes:
        """The skeleton of the field's value, without tag and length."""
        _, used = wire.decode_varint(self.skeleton)
        _, used = wire.decode_varint(self.skeleton, used)
        return self.skeleton[used:]

    @classmethod
    def literal(cls, number: int, content: bytes) -> Record:
        """Return a new length-delimited field."""
        data = wire.encode_header(number, len(content)) + content
        return cls(number, (data,), data)


class Payloads:
    """The payloads behind the placeholders in a skeleton.

    A placeholder, or mark, is 16 random bytes and the payload's index. The bytes are drawn anew for every load, so no file can
    forge one. A model and everything edited from it share one object, and several threads may edit one model at a time.
    """

    def __init__(self) -> None:
        self.token = secrets.token_bytes(16)
        self._spans: list[Span] = []
        self._adding = threading.Lock()

    def mark(self, span: Span) -> bytes:
        """Return a new placeholder for ``span``."""
        with self._adding:
            index = len(self._spans)
            self._spans.append(span)
        return self.token + index.to_bytes(MARK_INDEX_BYTES, "little")

    def replace(self, mark: bytes, span: Span) -> None:
        """Replace the span behind ``mark`` by ``span``: the same payload, now with its element type."""
        self._spans[self._index(mark)] = span

    def find_mark(self, span: Span) -> bytes:
        """Return the placeholder of ``span``."""
        return self.token + self._spans.index(span).to_bytes(MARK_INDEX_BYTES, "little")

    def find(self, tensor: onnx.TensorProto) -> Span | None:
        """Return the payload behind a placeholder tensor, or None if the tensor holds its own bytes."""
        return self.find_by_mark(tensor.raw_data) if tensor.HasField("raw_data") else None

    def find_by_mark(self, raw: bytes) -> Span | None:
        """Return the payload behind the placeholder ``raw``, or None if ``raw`` is not one."""
        size = len(self.token) + MARK_INDEX_BYTES
        if len(raw) != size or not raw.startswith(self.token):
            return None
        return self._spans[self._index(raw)]

    @staticmethod
    def _index(mark: bytes) -> int:
        return int.from_bytes(mark[-MARK_INDEX_BYTES:], "little")


@dataclass(frozen=True, eq=False)
class Document:
    """A whole model file: the ModelProto's records in file order, and beside them the graph's own records.

    The graph's record in ``model`` has no chunks; its skeleton is the graph field's original tag and length.
    """

    model: tuple[Record, ...]
    graph: tuple[Record, ...]
    payloads: Payloads = field(default_factory=Payloads)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the file's bytes, in order."""
        for record in self.model:
            if record.field == GRAPH_FIELD:
                yield encode_graph_header(record, sum(child.size for child in self.graph))
                for child in self.graph:
                    yield from child.chunks
            else:
                yield from record.chunks

    @cached_property
    def size(self) -> int:
        """The file's size in bytes."""
        return sum(map(measure_chunk, self.chunks()))

    @cached_property
    def payload_bytes(self) -> int:
        """The number of the file's bytes that belong to payloads."""
        return sum(chunk.length for chunk in self.chunks() if isinstance(chunk, Span))

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The file as a ModelProto with placeholders for large payloads (see `Payloads`). Do not change it."""
        graph = b"".join(record.skeleton for record in self.graph)
        parts = [
            wire.encode_header(GRAPH_FIELD, len(graph)) + graph if record.field == GRAPH_FIELD else record.skeleton
            for record in self.model
        ]
        return parse(onnx.ModelProto, b"".join(parts))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the skeleton: every byte except payloads, and each payload's position, length and element type."""
        return compute_fingerprint(self.chunks())


def compute_fingerprint(chunks: Iterable[Chunk]) -> str:
    """Return sha256 (hex) of literal bytes, each payload replaced by ``\\0payload:<place>:<length>:<element type>\\0``."""
    digest = hashlib.sha256()
    place = 0
    for chunk in chunks:
        if isinstance(chunk, bytes):
            digest.update(chunk)
        else:
            digest.update(b"\0payload:%d:%d:%d\0" % (place, chunk.length, chunk.data_type))
        place += measure_chunk(chunk)
    return digest.hexdigest()


def hash_payloads(spans: Iterable[Span]) -> str:
    """Return the sha256 (hex) of the payloads' bytes, in order."""
    digest = hashlib.sha256()
    for span in spans:
        for start in range(0, span.length, HASHED_AT_ONCE):
            digest.update(span.source.read(span.offset + start, min(HASHED_AT_ONCE, span.length - start)))
    return digest.hexdigest()


def encode_graph_header(placeholder: Record, length: int) -> bytes:
    """Return the graph field's tag and length: the original bytes if the length is unchanged, else the shortest form."""
    _, used = wire.decode_varint(placeholder.skeleton)
    claimed, _ = wire.decode_varint(placeholder.skeleton, used)
    return placeholder.skeleton if claimed == length else wire.encode_header(GRAPH_FIELD, length)


LARGEST_FIELD = 1 << 29


def splice_records(records: Sequence[Record], field: int, wanted: Sequence[Record]) -> tuple[Record, ...]:
    """Return ``records`` with exactly ``wanted`` as its records of ``field``, in that order. All other records stay in place.

    A kept record keeps its place; a new one follows the wanted record before it. If the kept ones change their order, all of
    ``wanted`` stands where the first of them stood. If none is kept, they stand where the first record of the field was, or
    before the first field of a higher number, or at the end.
    """
    place = {id(record): index for index, record in enumerate(records) if record.field == field}
    kept = [place[id(record)] for record in wanted if id(record) in place]
    if kept != sorted(kept):
        kept = []
    anchored = {id(records[index]) for index in kept}
    before: list[Record] = []
    after: dict[int, list[Record]] = {}
    current = before
    for record in wanted:
        if id(record) in anchored:
            current = after.setdefault(id(record), [])
        else:
            current.append(record)
    start = min(kept) if kept else _find_first_place(records, field)
    out: list[Record] = []
    for index, record in enumerate(records):
        if index == start:
            out += before
        if record.field != field:
            out.append(record)
        elif id(record) in anchored:
            out += [record, *after[id(record)]]
    return tuple(out if start < len(records) else [*out, *before])


def _find_first_place(records: Sequence[Record], field: int) -> int:
    for first in ([field], range(field + 1, LARGEST_FIELD)):
        for index, record in enumerate(records):
            if record.field in first:
                return index
    return len(records)
