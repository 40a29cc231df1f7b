"""The undo of an edit: the source document as runs of the edited document's records and literal bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from graphsurgery.model import wire
from graphsurgery.model.records import GRAPH_FIELD, Document, Payloads, Record, encode_graph_header

Parts = list[str | int]
"""Bytes of a record: a string is base64 of literal bytes, a number is the index of a payload within the record."""
Instructions = list[list[int] | str | dict[str, Any]]
"""How to rebuild a list of records: ``[first, count]`` takes records of the edited file, a string is base64 of literal bytes,
and a mapping takes the payloads of the record at ``place`` and puts other bytes around them (``chunks``, ``skeleton``)."""


def compute_undo(before: Document, after: Document) -> dict[str, Any]:
    """Return the JSON-ready undo from ``after`` to ``before``. Raise ValueError if ``after`` lacks one of its payloads."""
    payloads = after.payloads
    undo: dict[str, Any] = {
        "model": _make_instructions(before.model, after.model, payloads),
        "graph": _make_instructions(before.graph, after.graph, payloads),
    }
    place = next(record for record in before.model if record.field == GRAPH_FIELD)
    length = sum(record.size for record in before.graph)
    header = encode_graph_header(place, length)  # as it is written: an edit in memory leaves the old length in its record
    if header != wire.encode_header(GRAPH_FIELD, length):
        undo["header"] = _encode(header)
    return undo


def apply_undo(document: Document, undo: dict[str, Any]) -> Document:
    """Return the document that `compute_undo` describes. Raise KeyError, TypeError, ValueError or IndexError if it does not
    fit."""
    model = tuple(_follow_instructions(document, document.model, undo["model"]))
    graph = tuple(_follow_instructions(document, document.graph, undo["graph"]))
    if sum(record.field == GRAPH_FIELD for record in model) != 1:
        raise ValueError("the way back does not lead to a model")
    if "header" in undo:
        header = _decode(undo["header"])
        wire.decode_varint(header, wire.decode_varint(header)[1])  # ValueError where it is no tag and length
        model = tuple(replace(record, skeleton=header) if record.field == GRAPH_FIELD else record for record in model)
    return replace(document, model=model, graph=graph)


def _make_instructions(before: Sequence[Record], after: Sequence[Record], payloads: Payloads) -> Instructions:
    """Return how to rebuild ``before`` from ``after``. Raise ValueError if ``after`` lacks a payload."""
    place = {id(record): index for index, record in enumerate(after)}
    recipe: Instructions = []
    for record in before:
        index = place.get(id(record))
        if index is None:
            recipe.append(_describe_changed_record(record, after, payloads) if record.has_payload else _encode(record.skeleton))
        elif recipe and isinstance(recipe[-1], list) and sum(recipe[-1]) == index:
            recipe[-1][1] += 1
        else:
            recipe.append([index, 1])
    return recipe


def _describe_changed_record(record: Record, after: Sequence[Record], payloads: Payloads) -> dict[str, Any]:
    """Return the instructions for a record whose payloads are unchanged but whose other bytes are not."""
    wanted = record.spans
    place = next((index for index, one in enumerate(after) if all(span in one.spans for span in wanted)), None)
    if place is None:
        raise ValueError("an edit that drops weights cannot be undone")
    held = after[place].spans
    chunks = [_encode(chunk) if isinstance(chunk, bytes) else held.index(chunk) for chunk in record.chunks]
    skeleton: Parts = []
    rest = record.skeleton
    for span in wanted:
        literal, _, rest = rest.partition(payloads.find_mark(span))
        skeleton += [_encode(literal), held.index(span)]
    return {"place": place, "chunks": chunks, "skeleton": [*skeleton, _encode(rest)]}


def _follow_instructions(document: Document, records: Sequence[Record], recipe: Instructions) -> Iterator[Record]:
    """Yield the rebuilt records. Raise IndexError for records that do not exist or are taken twice, which our instructions
    never do."""
    left = len(records)
    for item in recipe:
        if isinstance(item, str):
            yield _make_literal(_decode(item))
            continue
        first, count = item if isinstance(item, list) else (item["place"], 1)
        left -= count
        if first < 0 or count < 1 or left < 0 or first + count > len(records):
            raise IndexError(first)
        if isinstance(item, list):
            yield from records[first : first + count]
        else:
            yield _restore_record(records[first], item, document.payloads)


def _restore_record(record: Record, item: dict[str, Any], payloads: Payloads) -> Record:
    held = record.spans
    chunks = tuple(_decode(part) if isinstance(part, str) else held[part] for part in item["chunks"])
    skeleton = [_decode(part) if isinstance(part, str) else payloads.find_mark(held[part]) for part in item["skeleton"]]
    return Record(record.field, chunks, b"".join(skeleton))


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _make_literal(data: bytes) -> Record:
    tag, _ = wire.decode_varint(data)
    return Record(tag >> 3, (data,), data)
