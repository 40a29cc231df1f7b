"""The cache of a service: the rows (vectors or scores) of inputs by their keys, in this process or in Redis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphsurgery.errors import RequestError
from graphsurgery.serving.entries import Entry
from graphsurgery.serving.settings import ServeSettings

MEMORY, NONE = "memory", "none"
SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass
class CacheStats:
    """Counts of what became of the lookups in the cache, since the start."""

    hits: int = 0
    misses: int = 0
    """Inputs that were not found, for whatever reason."""
    wrong: int = 0
    """Misses whose entry existed but failed its checks. It is written again."""
    failures: int = 0
    """Calls to Redis that failed or took too long."""
    skipped: int = 0
    """Misses for which Redis was not asked, because it had failed shortly before."""
    dropped: int = 0
    """Entries that were not written, because Redis was too slow or had failed."""
    entries: int = 0
    """How many entries this process holds."""
    bytes: int = 0
    """How many bytes of memory the entries take."""
    is_paused: bool = False
    """Whether Redis is not asked at the moment, because it has failed."""


class Cache(Protocol):
    """Rows by key. No method raises an error if the cache is slow, unreachable or corrupt: the service then computes the row.

    All methods are called from the event loop of the service.
    """

    @property
    def stats(self) -> CacheStats: ...

    async def get_many(self, keys: Sequence[bytes], width: int) -> list[Entry | None]:
        """Return the entry of each key, or None. An entry with another ``width`` counts as missing; 0 stands for any width."""
        ...

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep these entries. Returns before they are written, if writing takes time."""
        ...

    async def close(self) -> None:
        """Write the entries that wait to be written, for a second at most, and close connections."""
        ...


def open_cache(settings: ServeSettings) -> Cache | None:
    """Return the cache that ``settings.cache`` names, or None if it is ``none``.

    Raises:
        RequestError: it is neither ``memory`` nor ``none`` nor the URL of a Redis server, or a size or time is not positive.
        MissingPackageError: the redis package is not installed.
    """
    if settings.cache == NONE:
        return None
    if settings.cache_seconds is not None and not 0 < settings.cache_seconds < math.inf:
        raise RequestError(f"entries are to be kept for {settings.cache_seconds} seconds", "give more than 0, or leave it out")
    if settings.cache == MEMORY:
        from graphsurgery.serving.memory_cache import MemoryCache

        if settings.cache_bytes < 1:
            raise RequestError(f"the cache may take {settings.cache_bytes} bytes", "give 1 or more, or choose the cache `none`")
        return MemoryCache(settings.cache_bytes, settings.cache_seconds)
    if settings.cache.startswith(SCHEMES):
        from graphsurgery.serving.redis_cache import RedisCache

        return RedisCache(settings.cache, settings.cache_seconds)
    raise RequestError(
        f"there is no cache {settings.cache!r}", "choose memory, none, or a URL such as redis://localhost:6379/0", ("--cache",)
    )
