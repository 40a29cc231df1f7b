"""What long work reports while it runs: a few words, and how many of how many parts are done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Called at the start of each piece of work, and for each of its parts that is done."""

    def __call__(self, doing: str, done: int = 0, total: int = 0, /) -> None:
        """Show in a few words what is being done, and how many of ``total`` parts are done. ``total`` is 0 if unknown."""


def ignore_progress(_: str, __: int = 0, ___: int = 0, /) -> None:
    """Show nothing."""


def count_parts(parts: Iterable[T], total: int, progress: Progress, doing: str, first: int = 0) -> Iterator[T]:
    """Yield ``parts``, and report before each of them how many of ``total`` are done. ``first`` of them are done before."""
    for done, part in enumerate(parts, first):
        progress(doing, done, total)
        yield part
