"""Reads and writes at a position of an open file. Windows has neither ``pread`` nor ``pwrite``. Standard library only."""

from __future__ import annotations

import os
import threading

_MOVING = threading.Lock()
"""Held while a file's own position is moved and used, so that threads which share a descriptor do not mix."""


def flags(*names: str) -> int:
    """The flags of ``os.open`` with these names, as far as the system has them. Windows needs ``O_BINARY``."""
    found = 0
    for name in (*names, "O_CLOEXEC", "O_BINARY"):
        found |= getattr(os, name, 0)
    return found


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Read up to ``length`` bytes at ``offset``."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _MOVING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = _write_some(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _write_some(descriptor: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, view, offset)
    with _MOVING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, view)
