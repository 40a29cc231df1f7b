"""The cache in a Redis server, which several services may share.

Redis may be slow, unreachable or corrupt. A request waits for it once, for at most `PATIENCE`, and the service computes what it
does not get. The client never retries, and after a few failures a `Breaker` stops calls to Redis for some seconds. Entries are
written in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphsurgery.errors import MissingPackageError, RequestError
from graphsurgery.serving.breaker import Breaker
from graphsurgery.serving.cache import CacheStats
from graphsurgery.serving.entries import Entry, decode, encode

if TYPE_CHECKING:
    from redis.asyncio import Redis

LOG = logging.getLogger(__name__)
PREFIX = "gs1:"
PATIENCE = 0.03
"""The seconds that a request waits for all of its entries."""
SLICES = 4
WRITE_PATIENCE = 1.0
"""The seconds that one write may take. No request waits for it."""
WRITTEN_AT_ONCE = 256
"""The largest number of entries in one write."""
MOST_WAITING = 16_000_000
"""How many bytes may wait to be written. More are dropped, the oldest first."""
CONNECTIONS = 64
CLOSING = 1.0


class RedisCache:
    """Entries in Redis, under ``gs1:`` and the key in hex. Every method is called from one event loop."""

    def __init__(self, url: str, seconds: float | None = None, reading: Breaker | None = None) -> None:
        """Prepare connections, without making one.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py takes it.
            seconds: how long Redis keeps an entry. None if Redis decides.
            reading: decides when Redis may be asked for entries.

        Raises:
            MissingPackageError: the redis package is not installed.
            RequestError: the URL cannot be read.
        """
        self._client = _connect(url)
        self._expiry = None if seconds is None else max(1, round(seconds * 1000))
        self._reading, self._writing = reading or Breaker(), Breaker()
        self._stats = CacheStats()
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()
        self._waiting_bytes = 0
        self._writer: asyncio.Task[None] | None = None

    @property
    def stats(self) -> CacheStats:
        self._stats.is_paused = self._reading.is_open
        return self._stats

    async def get_many(self, keys: Sequence[bytes], width: int) -> list[Entry | None]:
        """Return the entry of each key, or None. It takes at most `PATIENCE` seconds."""
        values = await self._read(keys) if keys else []
        found = [None if value is None else decode(key, value, width) for key, value in zip(keys, values, strict=True)]
        hits = sum(one is not None for one in found)
        self._stats.hits += hits
        self._stats.misses += len(found) - hits
        self._stats.wrong += sum(value is not None for value in values) - hits
        return found

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Queue entries to be written in the background."""
        for key, entry in entries.items():
            content = encode(key, entry)
            if content is not None:
                self._waiting_bytes += len(content) - len(self._waiting.pop(key, b""))
                self._waiting[key] = content
        while self._waiting_bytes > MOST_WAITING:
            self._take(1)
            self._stats.dropped += 1
        if self._waiting and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write_all())

    async def close(self) -> None:
        """Write the entries that wait, for `CLOSING` seconds at most, and close the connections."""
        if self._writer is not None:
            await _finish(self._writer, CLOSING)
        closing = asyncio.ensure_future(self._client.aclose())
        if not await _finish(closing, CLOSING):
            LOG.warning("the connections to Redis could not be closed in time")

    async def _read(self, keys: Sequence[bytes]) -> Sequence[object]:
        """Return what Redis holds under each key. If it does not answer, or is not asked, return None for all keys."""
        nothing = [None] * len(keys)
        if not self._reading.allows():
            self._stats.skipped += len(keys)
            return nothing
        values = await self._ask(self._client.mget([_name(key) for key in keys]), PATIENCE, self._reading)
        return values if isinstance(values, list) and len(values) == len(keys) else nothing

    async def _write_all(self) -> None:
        while self._waiting:
            some = self._take(WRITTEN_AT_ONCE)
            if not self._writing.allows():
                self._stats.dropped += len(some)
                continue
            pipeline = self._client.pipeline(transaction=False)
            for key, content in some.items():
                pipeline.set(_name(key), content, px=self._expiry)
            if await self._ask(pipeline.execute(), WRITE_PATIENCE, self._writing) is None:
                self._stats.dropped += len(some)

    def _take(self, count: int) -> dict[bytes, bytes]:
        """Remove the oldest entries that wait, and return them."""
        taken = dict(self._waiting.popitem(last=False) for _ in range(min(count, len(self._waiting))))
        self._waiting_bytes -= sum(map(len, taken.values()))
        return taken

    async def _ask(self, call: Awaitable[Any], patience: float, breaker: Breaker) -> Any:
        """Return what Redis answers, or None if it fails or does not answer in time. Report the outcome to the breaker."""
        asked = asyncio.ensure_future(call)
        try:
            done = await _finish(asked, patience)
            answer = asked.result() if done else None
            why = "" if done else f"no answer in {patience * 1000:.0f} ms"
        except Exception as error:  # whatever a client makes of what a server sends: no request may fail for it
            answer, why = None, f"{type(error).__name__}: {error}"
        was_open = breaker.is_open
        if why:
            self._stats.failures += 1
            breaker.failed()
        else:
            breaker.succeeded()
        if breaker.is_open != was_open:
            LOG.warning("Redis is left alone for a while (%s)" if why else "Redis answers again%s", why)
        return answer


def _connect(url: str) -> Redis:
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise MissingPackageError("a cache in Redis needs the redis package", "pip install 'graphsurgery[redis]'") from error
    try:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=CONNECTIONS, timeout=WRITE_PATIENCE, socket_timeout=WRITE_PATIENCE,
            socket_connect_timeout=WRITE_PATIENCE,
            retry=Retry(NoBackoff(), 0),  # redis-py repeats calls by default: 7 seconds for a server that hangs
            protocol=2,  # one greeting less, which a new connection would wait for
        )  # fmt: skip
    except ValueError as error:
        raise RequestError(
            f"the URL of Redis cannot be read: {error}", "give redis://HOST:PORT/DATABASE", ("--cache",)
        ) from error
    return Redis.from_pool(pool)


async def _finish(task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for a task, and return whether it ended in time. If it did not, or if this wait is cancelled, cancel the task.

    The wait is made of slices. If the event loop is busy with other things, a slice ends late, and that extra time does not
    count, because the task is not the cause of it.
    """
    try:
        for _ in range(SLICES):
            if (await asyncio.wait({task}, timeout=seconds / SLICES))[0]:
                return True
        return False
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # its error concerns nobody


def _name(key: bytes) -> str:
    return f"{PREFIX}{key.hex()}"
