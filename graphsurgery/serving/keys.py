"""The key of an input in the cache: the sha256 of everything that its row depends on.

The length of every field goes before it, so that "ab" and "c" differ from "a" and "bc". Different models, kinds of input or
options never share a key.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from graphsurgery.errors import WrongTypeError
from graphsurgery.serving.towers import TextOptions

VERSION = b"graphsurgery cache 1"
LENGTH = struct.Struct("<Q")


def make_keys(kind: str, identity: str, options: TextOptions, inputs: Sequence[Any]) -> list[bytes]:
    """Return the key of each input, 32 bytes.

    Args:
        kind: the kind of the tower: `Tower.kind`.
        identity: `Tower.identity`.
        options: how the texts of this request are tokenised.
        inputs: texts, bytes, token ids, or pairs of these.

    Raises:
        WrongTypeError: an input is of another type.
    """
    common = _start(kind, identity, options)
    keys = []
    for one in inputs:
        own = common.copy()
        for part in _walk(one):
            own.update(part)
        keys.append(own.digest())
    return keys


@functools.lru_cache(maxsize=64)
def _start(kind: str, identity: str, options: TextOptions) -> Any:
    """Return the sha256 of what all inputs of a request share. It is cached, because most requests share it, too."""
    common = hashlib.sha256()
    for field in (VERSION, kind.encode(), identity.encode(), *_list_options(options)):
        common.update(_frame(b"f", field))
    return common


def _list_options(options: TextOptions) -> Iterator[bytes]:
    """Yield name and value of every option, so that an option that is added later separates keys, too."""
    for field in dataclasses.fields(options):
        yield field.name.encode()
        yield repr(getattr(options, field.name)).encode("utf-8", "backslashreplace")


def _walk(content: Any) -> Iterator[bytes]:
    """Yield the parts of an input, each with a mark of its type and its length."""
    if isinstance(content, str):
        yield _frame(b"s", content.encode("utf-8", "surrogatepass"))
    elif isinstance(content, bytes | bytearray | memoryview):
        yield _frame(b"b", bytes(content))
    elif isinstance(content, bool) or content is None:
        yield _frame(b"c", repr(content).encode())
    elif isinstance(content, int):
        yield _frame(b"i", str(content).encode())
    elif isinstance(content, Sequence):
        yield b"l" + LENGTH.pack(len(content))
        for part in content:
            yield from _walk(part)
    else:
        raise WrongTypeError(f"an input is {type(content).__name__}", "give text, bytes, token ids, or a list of these")


def _frame(mark: bytes, content: bytes) -> bytes:
    return mark + LENGTH.pack(len(content)) + content
