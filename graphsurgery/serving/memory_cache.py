"""The cache inside the process of the service, bounded by bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from graphsurgery.serving.cache import CacheStats
from graphsurgery.serving.entries import Entry

OVERHEAD = 600
"""About how many bytes an entry takes besides its numbers, for Python's objects and its place in the table."""


class MemoryCache:
    """Keeps the most recently used entries, as many as fit. All methods are called from one thread."""

    def __init__(self, most_bytes: int, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty cache.

        Args:
            most_bytes: how much memory entries may take together.
            seconds: how long an entry is kept after it was written. None for as long as there is room.
            clock: returns the time in seconds.
        """
        self.most_bytes, self.seconds, self.clock = most_bytes, seconds, clock
        self.stats = CacheStats()
        self._kept: OrderedDict[bytes, tuple[Entry, float]] = OrderedDict()

    def find(self, keys: Sequence[bytes], width: int) -> list[Entry | None]:
        """Return the entry of each key, or None, as `get_many` does, but without the cost of a coroutine."""
        now = self.clock()
        found = [self._get(key, width, now) for key in keys]
        hits = sum(one is not None for one in found)
        self.stats.hits += hits
        self.stats.misses += len(found) - hits
        return found

    async def get_many(self, keys: Sequence[bytes], width: int) -> list[Entry | None]:
        """Return the entry of each key, or None."""
        return self.find(keys, width)

    def keep(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep these entries. To make room, drop those that were not used for the longest time."""
        now = self.clock()
        for key, entry in entries.items():
            self._drop(key)
            self._kept[key] = (entry, now)
            self._count(entry, 1)
        while self.stats.bytes > self.most_bytes:
            self._drop(next(iter(self._kept)))

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep these entries, as `keep` does."""
        self.keep(entries)

    async def close(self) -> None:
        """Drop every entry."""
        self._kept.clear()
        self.stats.entries = self.stats.bytes = 0

    def _get(self, key: bytes, width: int, now: float) -> Entry | None:
        entry, since = self._kept.get(key, (None, now))
        if entry is None:
            return None
        if self.seconds is not None and now - since >= self.seconds:
            self._drop(key)
            return None
        if width and entry.vector.shape != (width,):
            return None
        self._kept.move_to_end(key)
        return entry

    def _drop(self, key: bytes) -> None:
        entry, _ = self._kept.pop(key, (None, 0.0))
        if entry is not None:
            self._count(entry, -1)

    def _count(self, entry: Entry, sign: int) -> None:
        self.stats.entries += sign
        self.stats.bytes += sign * (entry.vector.nbytes + OVERHEAD)
