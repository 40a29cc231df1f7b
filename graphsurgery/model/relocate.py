"""Moving tensors' bytes to other files and back. Nothing else about the tensors changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
from google.protobuf.message_factory import GetMessageClass

from graphsurgery.model.external import ExternalFile, is_external
from graphsurgery.model.parsing import parse
from graphsurgery.model.records import Document, Record, Span
from graphsurgery.model.scan import make_record
from graphsurgery.model.schema import GRAPH, MODEL, RAW_DATA, find_tensor_fields, walk_tensors
from graphsurgery.model.sources import ByteSource

Change = Callable[[onnx.TensorProto], bool]
"""Changes a tensor in place and returns whether it did."""
INITIALIZER = GRAPH.fields_by_name["initializer"].number
LITTLE_ENDIAN_FIELDS = {RAW_DATA} | {
    onnx.TensorProto.DESCRIPTOR.fields_by_name[name].number for name in ("float_data", "double_data")
}
"""Payload fields whose bytes equal those of raw_data."""


def move_tensors(document: Document, name: str, bases: dict[str, int]) -> Document:
    """Move every external tensor at ``location`` into the file ``name``, ``bases[location]`` bytes further in."""

    def change(tensor: onnx.TensorProto) -> bool:
        if not is_external(tensor):
            return False
        location = next(entry.value for entry in tensor.external_data if entry.key == "location")
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
            elif entry.key == "offset" and bases[location]:
                entry.value = str(int(entry.value) + bases[location])
        if bases[location] and not any(entry.key == "offset" for entry in tensor.external_data):
            tensor.external_data.add(key="offset", value=str(bases[location]))
        return True

    return _change_tensors(document, change, lambda record: b"location" in record.skeleton)


def move_tensors_back(document: Document, name: str, bases: dict[str, int]) -> Document:
    """Undo `move_tensors`: each tensor in ``name`` returns to the location with the highest base not above its offset."""
    descending = sorted(bases.items(), key=lambda pair: pair[1], reverse=True)

    def change(tensor: onnx.TensorProto) -> bool:
        entries = {entry.key: entry for entry in tensor.external_data}
        if not is_external(tensor) or entries["location"].value != name:
            return False
        offset = int(entries["offset"].value) if "offset" in entries else 0
        location, base = next(pair for pair in descending if pair[1] <= offset)
        entries["location"].value = location
        if base:
            entries["offset"].value = str(offset - base)
        return True

    return _change_tensors(document, change, lambda record: b"location" in record.skeleton)


def move_payloads_out(document: Document, name: str, place: Callable[[Span], int]) -> Document:
    """Make initializers whose payload lies in the file refer to ``name``, at the offset that ``place`` returns for the
    payload."""

    def change(tensor: onnx.TensorProto) -> bool:
        span = document.payloads.find(tensor)
        if span is None or span.wire_field not in LITTLE_ENDIAN_FIELDS:
            return False
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", str(place(span))), ("length", str(span.length))):
            tensor.external_data.add(key=key, value=value)
        return True

    return _change_tensors(document, change, lambda record: record.field == INITIALIZER and record.has_payload)


def list_used_files(files: dict[str, ExternalFile], document: Document) -> list[str]:
    """Return the locations among ``files`` that the document's tensors name, in order of first use."""
    return [location for location in list_locations(document) if location in files]


def move_payloads_back(document: Document, name: str, start: int, source: ByteSource) -> Document:
    """Undo `move_payloads_out`: tensors at ``start`` and beyond in the file ``name``, open as ``source``, get their payload in
    raw_data."""

    def change(tensor: onnx.TensorProto) -> bool:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not is_external(tensor) or entries["location"] != name or int(entries.get("offset", 0)) < start:
            return False
        span = Span(source, int(entries["offset"]), int(entries["length"]), tensor.data_type, RAW_DATA)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = document.payloads.mark(span)
        return True

    return _change_tensors(document, change, lambda record: record.field == INITIALIZER and b"location" in record.skeleton)


def list_locations(document: Document) -> list[str]:
    """Return the locations that the document's tensors name, in order of first use."""
    found = {}
    for _, tensor in walk_tensors(document.proto):
        if is_external(tensor):
            found[next(entry.value for entry in tensor.external_data if entry.key == "location")] = True
    return list(found)


def _change_tensors(document: Document, change: Change, concerns: Callable[[Record], bool]) -> Document:
    def renew(record: Record, message: Any) -> Record:
        inner = find_tensor_fields(message).get(record.field)
        if inner is None or not record.chunks or not concerns(record):
            return record
        value = parse(GetMessageClass(inner), record.content)
        changed = [change(tensor) for _, tensor in walk_tensors(value)]
        if not any(changed):
            return record
        return make_record(record.field, value.SerializeToString(), inner, document.payloads)

    model = tuple(renew(record, MODEL) for record in document.model)
    return replace(document, model=model, graph=tuple(renew(record, GRAPH) for record in document.graph))
