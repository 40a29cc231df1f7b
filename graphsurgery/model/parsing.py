"""Protobuf's own parser, with errors that say what is wrong."""

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
"""Bytes of memory that the graph of a model may take, as far as `check_weight` can tell."""
COPIES, FIELD_WEIGHT, PACKED_WEIGHT = 5, 112, 16
"""How often a skeleton is held while a model is loaded; what a field takes at most; what a byte of packed varints takes."""
NOTHING_MORE = (None, 0, 0)
LONGEST_SHOWN = 120


def parse(kind: type[M], data: bytes) -> M:
    """``data`` as a message of ``kind``; MalformedModelError instead of protobuf's DecodeError."""
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
    """A name as messages show it: cut where it is very long, readable where it is not UTF-8 (protobuf gives bytes then)."""
    text = name if isinstance(name, str) else name[: 2 * LONGEST_SHOWN].decode("utf-8", "backslashreplace")
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def check_weight(parts: Iterable[tuple[Any, bytes]]) -> None:
    """Refuse messages, each given with its type, that together would take more than about `HEAVIEST` bytes once parsed.

    Found by walking their fields: what a parsed message takes follows from how many fields its type has, set or not, so that
    two bytes can become two hundred.
    """
    weight = 0
    for message, data in parts:
        weight = _weigh(message, data, weight + COPIES * len(data))


def _weigh(message: Any, data: bytes, weight: int) -> int:
    """``weight`` and what ``message`` takes once parsed."""
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
    """Of each field of ``message`` by number: the message type to look into, its own weight and the weight of a byte of it."""
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
    """The error for a model whose messages nest deeper than protobuf can parse."""
    return MalformedModelError(
        f"the model's messages (subgraphs within subgraphs) nest deeper than the {DEEPEST_MESSAGE} levels that protobuf reads",
        "flatten its nested If, Loop or Scan nodes",
    )


def is_too_deep(message: Any, data: bytes) -> bool:
    """Whether messages nest deeper than `DEEPEST_MESSAGE`, by walking the bytes; broken bytes end the walk."""
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
