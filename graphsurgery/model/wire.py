"""The protobuf wire format, as far as finding fields requires it.

A message is a sequence of *fields*. A field is a tag varint ``number << 3 | wire type``, for wire type 2 a length varint, and
its payload. Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from graphsurgery.errors import MalformedModelError

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10
BLOCK = 512
"""Bytes read at a time while walking a message, so that a run of tiny fields does not cost a read each."""


class Readable(Protocol):
    """Bytes that can be read at a position: a file or a buffer."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class Field(NamedTuple):
    """The position of one field of a message: ``[start, end)``, with its payload at ``[value, end)``."""

    number: int
    wire_type: int
    start: int
    value: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.value


def encode_varint(value: int) -> bytes:
    """Return the shortest varint of a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, position: int = 0) -> tuple[int, int]:
    """Return the varint at ``position`` and the position after it. Raise MalformedModelError if there is none."""
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = shift = 0
    for index in range(position, min(position + LONGEST_VARINT, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise MalformedModelError("the protobuf is broken: a varint has no end", "download or export the file again")


def encode_header(number: int, length: int) -> bytes:
    """Return tag and length of a length-delimited field."""
    return encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(length)


def read_fields(source: Readable, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message at ``[start, end)`` of ``source`` without reading their payloads.

    Raises MalformedModelError if a field leaves its message, or if protobuf does not know its number or wire type.
    """
    position = base = start
    block = b""
    while position < end:
        if position - base + 2 * LONGEST_VARINT > len(block) and base + len(block) < end:
            base, block = position, source.read(position, min(BLOCK, end - position))
        tag, used = decode_varint(block, position - base)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            _, stop = decode_varint(block, used)
            value, length = base + used, stop - used
        elif wire_type == LENGTH_DELIMITED:
            length, used = decode_varint(block, used)
            value = base + used
        elif wire_type in (FIXED64, FIXED32):
            value, length = base + used, 8 if wire_type == FIXED64 else 4
        else:
            raise _make_broken_error(position, f"wire type {wire_type} of field {number}")
        if not 0 < number < 1 << 29:
            raise _make_broken_error(position, f"field number {number}")
        if value + length > end:
            raise _make_broken_error(position, f"field {number} claims {length} bytes where {max(end - value, 0)} are left")
        yield Field(number, wire_type, position, value, value + length)
        position = value + length


def _make_broken_error(position: int, what: str) -> MalformedModelError:
    return MalformedModelError(
        f"the protobuf is broken at byte {position}: {what}",
        "the file is truncated, corrupt or not an ONNX model: download or export it again",
    )
