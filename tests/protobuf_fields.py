"""Comparing protobuf messages field by field, and their bytes record by record, with nothing of graphsurgery's own reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5


def differences(before: Message, after: Message, path: str = "") -> Iterator[str]:
    """The path of every field, known or unknown and at any depth, in which two messages of one type differ."""
    path = path or before.DESCRIPTOR.name
    for field in before.DESCRIPTOR.fields:
        where = f"{path}.{field.name}"
        if field.is_repeated:
            yield from _repeated(list(getattr(before, field.name)), list(getattr(after, field.name)), where)
        elif before.HasField(field.name) != after.HasField(field.name):
            yield f"{where} ({'lost' if before.HasField(field.name) else 'new'})"
        elif before.HasField(field.name):
            yield from _single(getattr(before, field.name), getattr(after, field.name), where)
    if unknown(before) != unknown(after):
        yield f"{path} (unknown fields)"


def unknown(message: Message) -> list[tuple[Any, ...]]:
    """The fields that the message's type does not know; groups as nested lists."""
    return [
        (one.field_number, one.wire_type, unknown(one.data) if isinstance(one.data, Message) else one.data)
        for one in UnknownFieldSet(message)
    ]


def _repeated(before: list[Any], after: list[Any], path: str) -> Iterator[str]:
    if len(before) != len(after):
        yield f"{path} ({len(before)} became {len(after)})"
        return
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        yield from _single(one, other, f"{path}[{index}]")


def _single(before: Any, after: Any, path: str) -> Iterator[str]:
    if isinstance(before, Message):
        yield from differences(before, after, path)
    elif type(before) is not type(after) or repr(before) != repr(after):  # so that a NaN equals itself, and -0.0 is not 0.0
        yield path


def varint(value: int, width: int = 1) -> bytes:
    """``value`` as a varint of at least ``width`` bytes: the shortest form is 1, longer ones are legal and not canonical."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes, width: int = 1) -> bytes:
    """A length-delimited field, its tag and its length of at least ``width`` bytes each."""
    return varint(number << 3 | LENGTH_DELIMITED, width) + varint(len(content), width) + content


def records(data: bytes) -> list[tuple[int, bytes]]:
    """The fields of a message as (number, the field's bytes, tag included)."""
    found = []
    position = 0
    while position < len(data):
        start = position
        tag, position = _read_varint(data, position)
        kind = tag & 7
        if kind == VARINT:
            _, position = _read_varint(data, position)
        elif kind == LENGTH_DELIMITED:
            length, position = _read_varint(data, position)
            position += length
        else:
            position += {FIXED64: 8, FIXED32: 4}[kind]
        found.append((tag >> 3, data[start:position]))
    return found


def content(record: bytes) -> bytes:
    """The value of a length-delimited field."""
    _, position = _read_varint(record, 0)
    _, position = _read_varint(record, position)
    return record[position:]


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
