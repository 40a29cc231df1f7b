"""Writing files so that each one appears whole or not at all. Standard library and `sources` only.

A file is written under an unused name and made durable with fsync. A link or a rename then gives it its real name, and only at
that moment does it exist. The kernel copies untouched bytes (``copy_file_range``, which shares blocks where the file system
can); where the kernel cannot, they are read and written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from graphsurgery.model.sources import combine_flags, read_at, write_at

BLOCK = 64 << 20
PLAIN_BLOCK = 1 << 20
LONGEST_STEM = 40
"""The temporary name takes at most this many characters of the file's name: 160 bytes in UTF-8, where file systems allow
255."""
CANNOT_COPY = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


class FileRange(NamedTuple):
    """``length`` bytes at ``offset`` of an open file."""

    descriptor: int
    offset: int
    length: int


Piece = bytes | FileRange
Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


def ignore_progress(_: int) -> None:
    """Ignore the number of bytes written."""


def make_temporary_name(path: Path) -> Path:
    """Return an unused hidden name beside ``path``."""
    return path.with_name(f".{path.name[:LONGEST_STEM]}.{secrets.token_hex(6)}.tmp")


def write_new_file(path: Path, pieces: Iterable[tuple[int, Piece]], size: int, progress: Progress = ignore_progress) -> None:
    """Create ``path`` with ``size`` bytes, each piece at its offset. The file is durable when this returns; any failure removes
    it.

    Raises FileExistsError if ``path`` exists, and OSError for whatever else the system refuses.
    """
    descriptor = _create(path, combine_flags("O_WRONLY", "O_CREAT", "O_EXCL"))
    try:
        try:
            for offset, piece in pieces:
                if isinstance(piece, bytes):
                    write_at(descriptor, piece, offset)
                    progress(len(piece))
                else:
                    copy_range(piece, descriptor, offset, progress)
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        remove(path)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in place of what is there, whole and durably, or raise OSError and change nothing."""
    temporary = make_temporary_name(path)
    write_new_file(temporary, [(0, content)], len(content))
    temporary.replace(path)
    sync_folder(path.parent)


def move_into_place(temporary: Path, path: Path, *, force: bool) -> None:
    """Give the file ``temporary`` the name ``path``. Raise FileExistsError if ``path`` exists and ``force`` is not set.

    A rename replaces an existing file; a link never does. Where the file system has no links, this looks for ``path`` once
    before it renames.
    """
    if not force:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        else:
            remove(temporary)
            return
    temporary.replace(path)


def copy_range(source: FileRange, target: int, offset: int, progress: Progress = ignore_progress) -> None:
    """Copy a range of one file to ``offset`` of another, by the kernel where it can. Raise OSError(EIO) if the source is too
    short."""
    start, left = source.offset, source.length
    by_kernel = hasattr(os, "copy_file_range")
    while left:
        try:
            moved = _copy_block(source.descriptor, target, min(left, BLOCK), start, offset, by_kernel)
        except OSError as error:
            if not (by_kernel and error.errno in CANNOT_COPY):
                raise
            by_kernel = False
            continue
        if moved == 0:
            raise OSError(errno.EIO, "the source file ended early")
        start, offset, left = start + moved, offset + moved, left - moved
        progress(moved)


def append_bytes(path: Path, data: bytes) -> None:
    """Append ``data`` to the file at ``path``, durably."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Call fsync on a folder so that the names in it survive a crash. Where the system cannot do that, the names exist all the
    same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file that we made, if it exists. A failure is ignored, so that it cannot hide the error that is being
    handled."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _create(path: Path, how: int) -> int:
    try:
        return os.open(path, how, 0o666)
    except OSError:
        raise
    except BaseException:  # an interrupt, perhaps just when the file had been made: then it is empty
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:
                remove(path)
        raise


def _copy_block(source: int, target: int, length: int, start: int, offset: int, by_kernel: bool) -> int:
    if by_kernel:
        return os.copy_file_range(source, target, length, start, offset)
    data = read_at(source, min(length, PLAIN_BLOCK), start)
    write_at(target, data, offset)
    return len(data)
