"""Files that appear whole or not at all. Standard library only.

A file is written under a name nobody uses, made durable with fsync, and gets its real name by a link or a rename, which is the
one moment at which it exists. Untouched bytes are copied by the kernel (``copy_file_range``, which shares blocks where the file
system can), with plain reads and writes where it cannot.
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
"""Characters of a file's name in the name of its temporary file: 160 bytes in UTF-8 at most, and file systems take 255."""
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
    """Tell nobody."""


def make_temporary_name(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody uses."""
    return path.with_name(f".{path.name[:LONGEST_STEM]}.{secrets.token_hex(6)}.tmp")


def write_new_file(path: Path, pieces: Iterable[tuple[int, Piece]], size: int, progress: Progress = ignore_progress) -> None:
    """Create ``path`` with ``size`` bytes, each piece at its offset, durable when this returns. Any failure removes it.

    Raises FileExistsError when ``path`` exists, OSError for whatever the system refuses.
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


def move_into_place(temporary: Path, path: Path, *, force: bool) -> None:
    """Let the file ``temporary`` be ``path``. FileExistsError when there is a ``path`` and it is not to be replaced by force.

    A rename replaces what stands there, a link never does; where the file system has no links, one look has to do.
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
    """Copy a range of one file to ``offset`` of another, by the kernel where it can. OSError(EIO): the source is too short."""
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
    """Write ``data`` behind what the file at ``path`` holds, durably."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it survive a crash; where the system cannot, the names exist all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file of ours if it is there; what cannot be removed must not hide the error that is being handled."""
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
