"""Trouble with stdout and stderr, told apart from all other trouble with files."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class CannotPrintError(Exception):
    """stdout or stderr takes no more. ``closed`` tells that whoever read it went away."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.closed = isinstance(error, BrokenPipeError)


class Printer(io.RawIOBase):
    """What stdout or stderr writes to, raising CannotPrintError where that raises OSError."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def write(self, data: Any) -> int | None:
        try:
            written: int | None = self._raw.write(data)
        except OSError as error:
            raise CannotPrintError(error) from error
        return written


@contextmanager
def printing() -> Iterator[None]:
    """While it lasts, trouble with stdout and stderr is CannotPrintError, and names that their encoding lacks are escaped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_printed, before)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def _printed(stream: IO[str]) -> Any:
    """A text stream on the same file; streams that are none on a file stay as they are."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return io.TextIOWrapper(
        io.BufferedWriter(Printer(raw)), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )  # fmt: skip
