"""Errors of stdout and stderr, kept apart from all other errors of files."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class CannotPrintError(Exception):
    """Writing to stdout or stderr failed. ``is_closed``: because the reader closed it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.is_closed = isinstance(error, BrokenPipeError)


class _GuardedStream(io.RawIOBase):
    """A raw stream that raises CannotPrintError in place of an OSError."""

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
def guard_output() -> Iterator[None]:
    """Raise CannotPrintError for errors of stdout and stderr, and escape characters that their encoding lacks."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_guard, before)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


def _guard(stream: IO[str]) -> Any:
    """Return a guarded text stream on the same file, or ``stream`` itself if it writes to no file."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return io.TextIOWrapper(
        io.BufferedWriter(_GuardedStream(raw)), stream.encoding, "backslashreplace", line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )  # fmt: skip
