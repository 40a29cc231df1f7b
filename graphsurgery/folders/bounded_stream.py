"""A part of an open file as a stream, for readers that want one and cannot be trusted to ask for little."""

from __future__ import annotations

import io

from graphsurgery.model.sources import FileBytes

LARGEST_READ = 4 << 20
"""Bytes in one read: the directory of a zip with 40 000 entries, or the longest string of a pickle."""


class BoundedStream(io.RawIOBase):
    """The bytes ``start`` to ``end`` of ``file``; a read of more than `LARGEST_READ` bytes that are there is a ValueError."""

    def __init__(self, file: FileBytes, start: int, end: int) -> None:
        self._file, self._start, self._size, self._at = file, start, end - start, 0

    def read(self, size: int = -1, /) -> bytes:
        there = max(self._size - self._at, 0)
        size = there if size < 0 else min(size, there)
        if size > LARGEST_READ:
            raise ValueError(f"{size} bytes in one piece, more than {LARGEST_READ}")
        found = self._file.read(self._start + self._at, size)
        self._at += size
        return found

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to and with the next newline; for the names of globals, so never long."""
        at, piece = self._at, self.read(min(1024, max(self._size - self._at, 0)))
        line = piece[: piece.find(b"\n") + 1] or piece
        self._at = at + len(line)
        return line

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
