"""A service with its cache in a real Redis: every answer is right, whatever Redis does, and a hit is a miss bit for bit."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
from conftest import FIXTURES
from redis_server import RedisServer

import graphsurgery
from graphsurgery import Embedder
from graphsurgery.serving import redis_cache
from graphsurgery.serving.cache import CacheStats, open_cache
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import TEXT

TEXTS = [f"the cat sat on chair {number}" + " and slept" * (number % 3) for number in range(60)]
NEVER = 60.0


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> TextTower:
    folder = tmp_path_factory.mktemp("served") / "bert"
    shutil.copytree(FIXTURES / "bert", folder)
    return TextTower(Embedder(graphsurgery.bake(folder, verify=False).folder, max_batch_tokens=128))


@pytest.fixture(scope="module")
def expected(tower: TextTower) -> np.ndarray:
    return tower.embedder.encode(TEXTS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    one = RedisServer(tmp_path_factory.mktemp("redis"))
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is waited for longer: the machine of the tests has other things to do."""
    monkeypatch.setattr(redis_cache, "PATIENCE", 0.5)


def run(tower: TextTower, cache: str, test: Callable[[Service], Awaitable[None]]) -> CacheStats:
    """Run a test with a service, and return what its cache has counted."""

    async def whole() -> CacheStats:
        settings = ServeSettings(cache=cache)
        service = Service({TEXT: tower}, settings, open_cache(settings))
        await service.start()
        try:
            await test(service)
            return service.cache.stats
        finally:
            await service.stop(10)

    return asyncio.run(asyncio.wait_for(whole(), NEVER))


async def ask_all(service: Service, expected: np.ndarray, at_once: int = 6) -> int:
    """Ask for every text, several a request. Every answer has to be right in every bit. Return how many were hits."""
    starts = range(0, len(TEXTS), at_once)
    found = await asyncio.gather(*(service.answer(TEXT, TEXTS[start : start + at_once]) for start in starts))
    answers = [one for each in found for one in each.answers]
    assert [one.error for one in answers] == [None] * len(TEXTS)
    assert np.stack([one.vector for one in answers]).tobytes() == expected.tobytes()
    assert all(one.tokens > 0 for one in answers)
    return sum(one.from_cache for one in answers)


async def wait_until_written(server: RedisServer) -> None:
    while server.client.dbsize() < len(TEXTS):
        await asyncio.sleep(0.01)


def test_a_hit_in_memory_is_a_miss_bit_for_bit(tower: TextTower, expected: np.ndarray) -> None:
    async def test(service: Service) -> None:
        assert await ask_all(service, expected) == 0
        await asyncio.sleep(0)
        assert await ask_all(service, expected, at_once=1) == len(TEXTS)

    assert run(tower, "memory", test).misses == len(TEXTS)


def test_services_share_what_they_have_computed(tower: TextTower, expected: np.ndarray, server: RedisServer) -> None:
    server.client.flushall()

    async def fill(service: Service) -> None:
        assert await ask_all(service, expected) == 0
        await wait_until_written(server)

    async def read(service: Service) -> None:
        assert await ask_all(service, expected) == len(TEXTS)

    run(tower, server.url, fill)
    assert run(tower, server.url, read).wrong == 0


def test_no_answer_is_wrong_or_lost_whatever_redis_does(tower: TextTower, expected: np.ndarray, server: RedisServer) -> None:
    server.client.flushall()

    async def test(service: Service) -> None:
        await ask_all(service, expected)
        await wait_until_written(server)
        names = sorted(server.client.keys(f"{redis_cache.PREFIX}*"))
        contents = [server.client.get(name) for name in names]
        flip = bytes([contents[0][80] ^ 1])
        server.client.set(names[0], contents[0][:80] + flip + contents[0][81:])
        server.client.set(names[1], contents[2])
        server.client.set(names[3], contents[3][:-4])
        server.client.delete(names[4])
        server.client.hset(names[4], "a", "hash")
        assert await ask_all(service, expected) == len(TEXTS) - 4
        assert service.cache.stats.wrong == 3
        server.stop()
        try:
            for _ in range(5):
                assert await ask_all(service, expected) == 0
        finally:
            server.go_on()
        server.kill()
        try:
            for _ in range(5):
                assert await ask_all(service, expected) == 0
        finally:
            server.start()

    assert run(tower, server.url, test).is_paused
