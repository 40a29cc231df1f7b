"""The cache in a real Redis: stopped, killed, or with wrong entries, it fails no request and gives no wrong row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from redis_server import RedisServer

from graphsurgery.serving import redis_cache
from graphsurgery.serving.breaker import Breaker
from graphsurgery.serving.entries import Entry, encode
from graphsurgery.serving.keys import make_keys
from graphsurgery.serving.redis_cache import RedisCache
from graphsurgery.serving.towers import TEXT, TextOptions

WIDTH = 384
KEYS = make_keys(TEXT, "model", TextOptions(), [f"text {number}" for number in range(40)])
ROWS = np.random.default_rng(11).standard_normal((len(KEYS), WIDTH)).astype(np.float32)
ENTRIES = {
    key: Entry(row, tokens=number, is_cut=number % 2 == 1) for number, (key, row) in enumerate(zip(KEYS, ROWS, strict=True))
}
KEY = KEYS[0]
NAME = f"{redis_cache.PREFIX}{KEY.hex()}"
PAUSE = 0.1
NEVER = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    one = RedisServer(tmp_path_factory.mktemp("redis"))
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def ready(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty server, and more patience with it: the machine of the tests has other things to do."""
    monkeypatch.setattr(redis_cache, "PATIENCE", 0.5)
    server.client.flushall()


def run(server: RedisServer, test: Callable[[RedisCache], Awaitable[Any]], seconds: float | None = None) -> RedisCache:
    """Run a test with a cache that holds every entry."""

    async def whole() -> RedisCache:
        cache = RedisCache(server.url, seconds, Breaker(pause=PAUSE))
        cache._writing.pause = PAUSE
        await put(cache, ENTRIES)
        await test(cache)
        await cache.close()
        return cache

    return asyncio.run(asyncio.wait_for(whole(), NEVER))


async def put(cache: RedisCache, entries: dict[bytes, Entry]) -> None:
    """Write entries, and wait until they are written."""
    await cache.put_many(entries)
    if cache._writer is not None:
        await cache._writer


async def count_hits(cache: RedisCache) -> int:
    """Return how many of all entries are found. What is found has to be what was put, bit for bit."""
    found = await cache.get_many(KEYS, WIDTH)
    for key, one in zip(KEYS, found, strict=True):
        if one is not None:
            assert one.vector.tobytes() == ENTRIES[key].vector.tobytes() and one.vector.dtype == np.float32
            assert (one.tokens, one.is_cut) == (ENTRIES[key].tokens, ENTRIES[key].is_cut)
    return sum(one is not None for one in found)


async def find_again(cache: RedisCache) -> None:
    """Ask until Redis is asked again and answers."""
    while not await count_hits(cache):
        await asyncio.sleep(PAUSE / 5)


def test_a_hit_is_what_was_put_bit_for_bit(server: RedisServer) -> None:
    async def test(cache: RedisCache) -> None:
        assert await count_hits(cache) == len(KEYS)
        assert await cache.get_many(KEYS, WIDTH + 1) == [None] * len(KEYS)
        assert await cache.get_many([], WIDTH) == []

    stats = run(server, test).stats
    assert (stats.hits, stats.wrong, stats.failures, stats.dropped) == (len(KEYS), len(KEYS), 0, 0)
    assert server.client.ttl(NAME) == -1, "kept for as long as there is room"


def test_entries_are_kept_as_long_as_was_said(server: RedisServer) -> None:
    async def test(cache: RedisCache) -> None:
        assert 0 < server.client.pttl(NAME) <= 700
        await asyncio.sleep(0.75)
        assert await count_hits(cache) == 0

    run(server, test, seconds=0.7)


def test_a_server_that_is_stopped_fails_no_request(server: RedisServer) -> None:
    """While it hangs, three requests wait in vain, and others do not ask. Answers that come late reach nobody."""

    async def test(cache: RedisCache) -> None:
        server.stop()
        try:
            for _ in range(20):
                assert await count_hits(cache) == 0
                await cache.put_many(ENTRIES)
            at_once = await asyncio.gather(*(count_hits(cache) for _ in range(200)))
            assert set(at_once) == {0} and cache.stats.is_paused
            assert cache.stats.failures <= 3 + 8, "each pause ends with one try"
        finally:
            server.go_on()
        await find_again(cache)
        assert await count_hits(cache) == len(KEYS) and not cache.stats.is_paused

    run(server, test)


def test_a_crowd_that_finds_it_stopped_leaves_no_connection_behind(server: RedisServer) -> None:
    """More requests than connections wait at once; later all of them are served by as many connections as before."""

    async def test(cache: RedisCache) -> None:
        server.stop()
        try:
            assert set(await asyncio.gather(*(count_hits(cache) for _ in range(3 * redis_cache.CONNECTIONS)))) == {0}
        finally:
            server.go_on()
        await find_again(cache)
        assert set(await asyncio.gather(*(count_hits(cache) for _ in range(40)))) == {len(KEYS)}

    run(server, test)
    assert len(server.client.client_list()) <= redis_cache.CONNECTIONS + 1


def test_a_server_that_is_killed_and_comes_back(server: RedisServer) -> None:
    async def test(cache: RedisCache) -> None:
        server.kill()
        try:
            assert [await count_hits(cache) for _ in range(10)] == [0] * 10
            assert cache.stats.is_paused
        finally:
            server.start()
        while not await count_hits(cache):
            await asyncio.sleep(PAUSE / 5)
            await put(cache, ENTRIES)
        assert await count_hits(cache) == len(KEYS)

    run(server, test)


@pytest.mark.parametrize(
    "content",
    [
        b"", ROWS[0].tobytes(), encode(KEY, ENTRIES[KEY])[:-1], encode(KEY, ENTRIES[KEY]) + b"\0",
        encode(KEYS[1], ENTRIES[KEYS[1]]), encode(make_keys(TEXT, "another model", TextOptions(), ["text 0"])[0], ENTRIES[KEY]),
        encode(KEY, Entry(ROWS[0][:-1])), bytes([encode(KEY, ENTRIES[KEY])[0] ^ 1]) + encode(KEY, ENTRIES[KEY])[1:],
        encode(KEY, ENTRIES[KEY])[:-1] + bytes([encode(KEY, ENTRIES[KEY])[-1] ^ 128]), b"x" * 5_000_000,
    ],
    ids=["empty", "raw", "short", "long", "another key's", "another model's", "fewer dims", "flip in front", "flip at the end",
         "huge"],
)  # fmt: skip
def test_a_wrong_entry_is_a_miss_and_is_written_again(server: RedisServer, content: bytes) -> None:
    async def test(cache: RedisCache) -> None:
        server.client.set(NAME, content)
        assert await count_hits(cache) == len(KEYS) - 1
        assert (cache.stats.wrong, cache.stats.failures) == (1, 0)
        await put(cache, {KEY: ENTRIES[KEY]})
        assert await count_hits(cache) == len(KEYS)

    run(server, test)


def test_a_value_of_another_type_is_a_miss_and_is_written_again(server: RedisServer) -> None:
    async def test(cache: RedisCache) -> None:
        server.client.delete(NAME)
        server.client.rpush(NAME, "a", "list")
        assert await count_hits(cache) == len(KEYS) - 1
        await put(cache, {KEY: ENTRIES[KEY]})
        assert await count_hits(cache) == len(KEYS)

    run(server, test)


def test_a_server_without_memory_is_still_read(server: RedisServer) -> None:
    async def test(cache: RedisCache) -> None:
        server.client.config_set("maxmemory", "1")
        try:
            await put(cache, {KEY: ENTRIES[KEY]})
            assert cache.stats.dropped == 1
            assert await count_hits(cache) == len(KEYS)
        finally:
            server.client.config_set("maxmemory", "64mb")

    run(server, test)


def test_what_waits_is_written_before_the_end(server: RedisServer) -> None:
    async def test(cache: RedisCache) -> None:
        server.client.flushall()
        await cache.put_many(ENTRIES)

    run(server, test)
    assert server.client.dbsize() == len(KEYS)
