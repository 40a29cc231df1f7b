"""The cache's entry for an input, and its encoding as bytes for a server such as Redis.

    magic 4 | key 32 | dtype 2 | flags 2 | dims 4 | tokens 4 | checksum 4 | dims numbers, little-endian

The checksum is the CRC-32 of everything else. Bytes that are inconsistent (a wrong length, a flipped bit, the entry of
another key) count as a missing entry.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

MAGIC = b"gse1"
HEADER = struct.Struct("<4s32s2sHII")
CHECKSUM = struct.Struct("<I")
START = HEADER.size + CHECKSUM.size
DTYPES = {np.dtype(code).newbyteorder("<"): code.encode() for code in ("f2", "f4", "f8", "i1", "u1", "i4", "i8")}
"""The number types that can be stored, with their two characters in the header."""
KINDS = {code: dtype for dtype, code in DTYPES.items()}
CUT = 1
"""The flag of a text that was cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """The row of one input, and the facts about the input that every answer states."""

    vector: np.ndarray
    """``[width]``, as the model's file gives it. Read-only."""
    tokens: int = 0
    is_cut: bool = False

    def __post_init__(self) -> None:
        """Keep a read-only copy of the row: a view would keep its whole batch in memory."""
        if self.vector.flags.writeable or self.vector.base is not None:
            kept = np.array(self.vector)
            kept.flags.writeable = False
            object.__setattr__(self, "vector", kept)


def encode(key: bytes, entry: Entry) -> bytes | None:
    """Return the bytes of an entry; None if its numbers are of a type that cannot be stored."""
    code = DTYPES.get(entry.vector.dtype)
    if code is None or entry.vector.ndim != 1:
        return None
    header = HEADER.pack(MAGIC, key, code, CUT if entry.is_cut else 0, entry.vector.size, entry.tokens)
    numbers = np.ascontiguousarray(entry.vector, entry.vector.dtype.newbyteorder("<")).tobytes()
    return header + CHECKSUM.pack(zlib.crc32(numbers, zlib.crc32(header))) + numbers


def decode(key: bytes, found: object, width: int) -> Entry | None:
    """Return the entry of ``key`` that ``found`` holds, or None if ``found`` is not a valid entry of this key.

    Args:
        key: the sha256 that was asked for.
        found: whatever the server gave.
        width: the dims of the model's rows, or 0 if its file does not declare them.
    """
    if not isinstance(found, bytes) or len(found) < START:
        return None
    magic, own_key, code, flags, dims, tokens = HEADER.unpack_from(found)
    dtype = KINDS.get(code)
    if magic != MAGIC or own_key != key or dtype is None or flags & ~CUT or (width and dims != width):
        return None
    numbers = memoryview(found)[START:]
    (checksum,) = CHECKSUM.unpack_from(found, HEADER.size)
    if len(numbers) != dims * dtype.itemsize or checksum != zlib.crc32(numbers, zlib.crc32(found[: HEADER.size])):
        return None
    return Entry(np.frombuffer(numbers, dtype), tokens, bool(flags & CUT))
