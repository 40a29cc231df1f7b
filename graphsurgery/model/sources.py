"""Sources of bytes: an open file or a buffer in memory, read at positions and never mapped. And positioned reads and writes.

Positioned reads replace ``mmap`` because pages of a mapped file count as resident memory of the process. Windows has neither
``pread`` nor ``pwrite``.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graphsurgery.errors import MalformedModelError, SourceChangedError, SurroundingsError

_MOVING = threading.Lock()
"""Held while a file's own position is moved and used, so that threads sharing a descriptor do not interfere."""


def combine_flags(*names: str) -> int:
    """Return the ``os.open`` flags with these names that the system has. Windows needs ``O_BINARY``."""
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


WINDOW = 16 * 1024


class ByteSource(Protocol):
    """Bytes that can be read at a position. ``descriptor`` is a file descriptor, or None for a buffer."""

    @property
    def size(self) -> int: ...

    @property
    def descriptor(self) -> int | None: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def check_unchanged(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies one state of one file."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class MemoryBytes:
    """A buffer."""

    descriptor = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def check_unchanged(self) -> None:
        """Do nothing: immutable bytes cannot change."""


class FileBytes:
    """A regular file, open for reading as long as something refers to it."""

    def __init__(self, path: Path, more: int = 0) -> None:
        try:
            _require_regular(path, path.stat())  # before opening: to open a device can already do something
            self.descriptor = os.open(path, combine_flags("O_RDONLY", "O_NONBLOCK") | more)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            if isinstance(error, SurroundingsError):
                raise
            what = f"cannot open {path}: {getattr(error, 'strerror', error)}"
            raise SurroundingsError(what, "check the path and its permissions") from error
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        _require_regular(path, status)
        self.path = path
        self.size = status.st_size
        self.identity = Identity.of(status)
        self._window = (0, b"")

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``. Small reads come from a window of the file's neighbouring bytes.

        Threads share the window: its start and its bytes are one tuple, read once and replaced by one assignment.
        """
        if length > WINDOW:
            return self._pread(offset, length)
        start, window = self._window
        skip = offset - start
        if skip < 0 or skip + length > len(window):
            skip, window = 0, self._pread(offset, min(WINDOW, max(self.size - offset, 0)))
            self._window = (offset, window)
        return window[skip : skip + length]

    def _pread(self, offset: int, length: int) -> bytes:
        """Read from the file itself. Raise SurroundingsError if the system cannot, MalformedModelError at the file's end."""
        pieces = []
        while length > 0:
            try:
                piece = read_at(self.descriptor, length, offset)
            except OSError as error:
                what = f"cannot read {self.path} at byte {offset}: {error.strerror}"
                raise SurroundingsError(what, "check the disk or the network drive that the file is on") from error
            if not piece:
                raise MalformedModelError(f"{self.path} ends at byte {offset} while it was read", "the file is being written")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if the file was written to since it was opened."""
        if Identity.of(os.fstat(self.descriptor)) != self.identity:
            raise SourceChangedError(f"{self.path} was changed since it was loaded", "load it again")


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SurroundingsError(f"{path} is not a regular file", "give the path of an .onnx file")
