"""Parsing with protobuf's own parser, with limits and with errors that explain what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from graphsurgery.errors import MalformedModelError
from graphsurgery.model import wire
from graphsurgery.model.schema import DEEPEST_MESSAGE
from graphsurgery.model.sources import MemoryBytes

M = TypeVar("M", bound=Message)
MOST_FIELDS_LOOKED_AT = 200_000
HEAVIEST = 200 << 20
"""Upper limit on the memory that a model's graph may take, in bytes, as far as `check_weight` can estimate it."""
COPIES, FIELD_WEIGHT, PACKED_WEIGHT = 5, 112, 16
"""How many copies of a skeleton exist while a model is loaded; the most bytes that a field takes; the bytes in memory for each
byte of packed varints."""
NOTHING_MORE = (None, 0, 0)
LONGEST_SHOWN = 120


def parse(kind: type[M], data: bytes) -> M:
    """Parse ``data`` as a message of ``kind``. Raise MalformedModelError instead of protobuf's DecodeError."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        if is_too_deep(kind.DESCRIPTOR, data):
            raise make_depth_error() from error
        raise MalformedModelError(
            f"the protobuf does not parse as {kind.DESCRIPTOR.name}: {error}",
            "the file is truncated, corrupt or not an ONNX model: download or export it again",
        ) from error


def shorten(name: str | bytes) -> str:
    """Return a name for a message: cut if it is very long, readable if it is not UTF-8 (protobuf returns bytes then)."""
    text = name if isinstance(name, str) else name[: 2 * LONGEST_SHOWN].decode("utf-8", "backslashreplace")
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def check_weight(parts: Iterable[tuple[Any, bytes]]) -> None:
    """Refuse messages, each given with its type, that together would take more than about `HEAVIEST` bytes once parsed.

    The estimate walks their fields. The size of a parsed message depends on how many fields its type has, set or not, so two
    bytes can become two hundred.
    """
    weight = 0
    for message, data in parts:
        weight = _weigh(message, data, weight + COPIES * len(data))


def _weigh(message: Any, data: bytes, weight: int) -> int:
    """Return ``weight`` plus the bytes that ``message`` takes once parsed."""
    source = MemoryBytes(data)
    walks = [(_list_field_weights(message), wire.read_fields(source, 0, len(data)))]
    while walks:
        kinds, walk = walks[-1]
        for number, wire_type, _, start, end in walk:
            inner, own, per_byte = kinds.get(number, NOTHING_MORE)
            weight += FIELD_WEIGHT + own + per_byte * (end - start)
            if weight > HEAVIEST:
                raise MalformedModelError(
                    f"the model's graph would take more than {HEAVIEST >> 20} MiB of memory, without its weights",
                    "look for oversized strings, metadata or lists in it",
                )
            if inner is not None and end > start and wire_type == wire.LENGTH_DELIMITED:
                walks.append((_list_field_weights(inner), wire.read_fields(source, start, end)))
                break
        else:
            walks.pop()
        if len(walks) > DEEPEST_MESSAGE:
            raise make_depth_error()
    return weight


@cache
def _list_field_weights(message: Any) -> dict[int, tuple[Any, int, int]]:
    """Return (message type to look into, own weight, weight of each of its bytes) for each field of ``message``, by number."""
    found: dict[int, tuple[Any, int, int]] = {}
    for field in message.fields:
        inner = field.message_type
        if inner is not None:
            grows = any(child.is_repeated or child.message_type is not None for child in inner.fields)
            found[field.number] = (inner if grows else None, 48 + 10 * len(inner.fields), 0)
        elif field.is_repeated and field.type not in (field.TYPE_STRING, field.TYPE_BYTES):
            found[field.number] = (None, 0, PACKED_WEIGHT)
    return found


def make_depth_error() -> MalformedModelError:
    """Return the error for a model whose messages nest deeper than protobuf can parse."""
    return MalformedModelError(
        f"the model's messages (subgraphs within subgraphs) nest deeper than the {DEEPEST_MESSAGE} levels that protobuf reads",
        "flatten its nested If, Loop or Scan nodes",
    )


def is_too_deep(message: Any, data: bytes) -> bool:
    """Return whether messages nest deeper than `DEEPEST_MESSAGE`. This walks the bytes and stops at broken ones."""
    source = MemoryBytes(data)
    todo = [(message, 0, len(data), 1)]
    looked = 0
    while todo:
        current, start, end, depth = todo.pop()
        if depth > DEEPEST_MESSAGE:
            return True
        try:
            for field in wire.read_fields(source, start, end):
                looked += 1
                if looked > MOST_FIELDS_LOOKED_AT:
                    return False
                known = current.fields_by_number.get(field.number)
                if known is not None and known.message_type is not None and field.wire_type == wire.LENGTH_DELIMITED:
                    todo.append((known.message_type, field.value, field.end, depth + 1))
        except MalformedModelError:
            return False
    return False
