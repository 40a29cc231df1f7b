"""The cache of the service: keys that never meet, entries that notice every change, bounds that hold, and a bad Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from graphsurgery.errors import MissingPackageError, RequestError, WrongTypeError
from graphsurgery.serving import redis_cache
from graphsurgery.serving.breaker import Breaker
from graphsurgery.serving.cache import open_cache
from graphsurgery.serving.entries import DTYPES, Entry, decode, encode
from graphsurgery.serving.keys import make_keys
from graphsurgery.serving.memory_cache import OVERHEAD, MemoryCache
from graphsurgery.serving.redis_cache import RedisCache
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import AUDIO, IMAGE, TEXT, TextOptions

WIDTH = 8
KEY, OTHER = make_keys(TEXT, "model", TextOptions(), ["one text", "another"])
ENTRY = Entry(np.linspace(-1, 1, WIDTH, dtype=np.float32), tokens=5, is_cut=True)
COMMAND = re.compile(rb"\*\d+\r\n\$")
NEVER = 60.0
"""Longer than any test may take: a call that hangs fails by it."""
SHORT = 0.02
"""How long a server is waited for that will not answer."""


class Clock:
    """A time that passes as a test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(test: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test, NEVER))


# keys


def test_keys_never_meet() -> None:
    """What is one input for one request is another for none: fields have their lengths, and types their marks."""
    inputs = ["", "ab", "a", "b", b"ab", "é", "e\u0301", "\ud800", ("ab", ""), ("a", "b"), ("", "ab"), (("a",), "b"), [1, 2],
              [12], ["1", "2"], [], [[]], [True, 2], [None]]  # fmt: skip
    keys = make_keys(TEXT, "model", TextOptions(), inputs)
    assert len(set(keys)) == len(inputs) and {len(key) for key in keys} == {32}
    assert keys == make_keys(TEXT, "model", TextOptions(), inputs), "a key has to be the same in the next process, too"
    assert make_keys(TEXT, "a", TextOptions(prompt="bc"), ["d"]) != make_keys(TEXT, "ab", TextOptions(prompt="c"), ["d"])


@pytest.mark.parametrize("field", dataclasses.fields(TextOptions), ids=lambda field: field.name)
def test_every_option_separates_keys(field: dataclasses.Field[str]) -> None:
    other = dataclasses.replace(TextOptions(), **{field.name: "another value"})
    assert make_keys(TEXT, "model", other, ["text"]) != make_keys(TEXT, "model", TextOptions(), ["text"])


def test_models_and_kinds_separate_keys() -> None:
    kinds = [make_keys(kind, "model", TextOptions(), [b"bytes"])[0] for kind in (TEXT, IMAGE, AUDIO)]
    assert len({*kinds, *make_keys(TEXT, "another model", TextOptions(), [b"bytes"])}) == 4


def test_an_input_of_another_type_has_no_key() -> None:
    with pytest.raises(WrongTypeError, match="dict"):
        make_keys(TEXT, "model", TextOptions(), ["text", {"a": 1}])


# entries


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_entry_is_read_bit_for_bit(dtype: np.dtype) -> None:
    numbers = np.frombuffer(np.random.default_rng(3).bytes(WIDTH * dtype.itemsize), dtype)  # NaN with a payload, too
    entry = Entry(numbers, tokens=7, is_cut=False)
    found = decode(KEY, encode(KEY, entry), WIDTH)
    assert found.vector.dtype == dtype and found.vector.tobytes() == numbers.tobytes()
    assert (found.tokens, found.is_cut) == (7, False)


def test_every_flipped_bit_is_noticed() -> None:
    content = encode(KEY, ENTRY)
    assert decode(KEY, content, WIDTH).is_cut
    for place in range(len(content) * 8):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        assert decode(KEY, bytes(changed), 0) is None, f"bit {place}"


@pytest.mark.parametrize(
    "found",
    [b"", b"x", encode(KEY, ENTRY)[:-1], encode(KEY, ENTRY) + b"\0", encode(OTHER, ENTRY), ENTRY.vector.tobytes(), "text", 7,
     None, [encode(KEY, ENTRY)], encode(KEY, Entry(np.zeros(WIDTH + 1, np.float32)))],
)  # fmt: skip
def test_what_is_no_entry_of_the_key_is_a_miss(found: object) -> None:
    assert decode(KEY, found, WIDTH) is None


def test_numbers_of_an_unknown_type_are_not_kept() -> None:
    assert encode(KEY, Entry(np.array([True, False]))) is None
    assert encode(KEY, Entry(np.zeros((2, 2), np.float32))) is None


def test_an_entry_cannot_be_changed_and_keeps_no_batch_alive() -> None:
    batch = np.ones((100, WIDTH), np.float32)
    entry = Entry(batch[3])
    batch[3] = 0
    assert entry.vector.base is None and entry.vector.tolist() == [1] * WIDTH
    with pytest.raises(ValueError, match="read-only"):
        entry.vector[0] = 2


# in memory


def test_memory_keeps_what_was_used_last() -> None:
    async def test() -> None:
        keys = make_keys(TEXT, "model", TextOptions(), [str(number) for number in range(4)])
        cache = MemoryCache(3 * (ENTRY.vector.nbytes + OVERHEAD))
        await cache.put_many(dict.fromkeys(keys[:3], ENTRY))
        await cache.get_many(keys[:1], WIDTH)
        await cache.put_many({keys[3]: ENTRY})
        assert [one is not None for one in await cache.get_many(keys, WIDTH)] == [True, False, True, True]
        assert await cache.get_many(keys[:1], WIDTH + 1) == [None]
        assert (cache.stats.entries, cache.stats.hits, cache.stats.misses) == (3, 4, 2)
        await cache.put_many({keys[0]: Entry(np.zeros(10_000, np.float32))})
        assert cache.stats.bytes <= cache.most_bytes, "an entry larger than the cache is not kept either"

    run(test())


def test_memory_forgets_in_time() -> None:
    async def test() -> None:
        clock = Clock()
        cache = MemoryCache(1_000_000, seconds=10, clock=clock)
        await cache.put_many({KEY: ENTRY})
        clock.now += 9
        assert await cache.get_many([KEY], WIDTH) == [ENTRY], "reading does not make it younger"
        clock.now += 1
        assert await cache.get_many([KEY], WIDTH) == [None]
        assert (cache.stats.entries, cache.stats.bytes) == (0, 0)

    run(test())


def test_the_bound_of_memory_is_that_of_the_process() -> None:
    """The bytes that are counted are no less than what Python allocates, or the bound would be no bound."""

    async def test() -> None:
        cache = MemoryCache(1 << 30)
        batch = np.random.default_rng(5).random((2_000, 96), np.float32)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for number, row in enumerate(batch):
            await cache.put_many({make_keys(TEXT, "model", TextOptions(), [str(number)])[0]: Entry(row, tokens=300 + number)})
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert 0.5 * cache.stats.bytes < taken <= cache.stats.bytes

    run(test())


# the breaker


def test_a_breaker_lets_one_try_after_each_pause() -> None:
    clock = Clock()
    breaker = Breaker(limit=2, pause=5, clock=clock)
    breaker.failed()
    assert breaker.allows() and not breaker.is_open
    breaker.failed()
    assert breaker.is_open and not breaker.allows()
    clock.now += 5
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    clock.now += 5
    assert breaker.allows(), "the one before never said what became of it"
    breaker.succeeded()
    assert not breaker.is_open and breaker.allows()


# a server that is no good Redis


def answering(answer: bytes | None) -> Callable[..., Awaitable[None]]:
    """A server that says the same to every command; None: it says nothing and keeps the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(65_536):
            writer.write((answer or b"") * len(COMMAND.findall(asked)))
        writer.close()

    return talk


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is waited for, however busy the machine is."""
    monkeypatch.setattr(redis_cache, "PATIENCE", NEVER / 2)


@asynccontextmanager
async def open_bad(talk: Callable[..., Awaitable[None]], breaker: Breaker | None = None) -> AsyncIterator[RedisCache]:
    """A cache in a server that talks so."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    cache = RedisCache(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", reading=breaker)
    yield cache
    await cache.close()
    server.close()


def bulk(*values: bytes) -> bytes:
    return b"*%d\r\n" % len(values) + b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)


@pytest.mark.parametrize(
    ("answer", "failures", "wrong"),
    [
        (bulk(encode(OTHER, ENTRY)), 0, 1), (bulk(b"raw"), 0, 1), (b"*1\r\n:7\r\n", 0, 1), (b"*0\r\n", 0, 0),
        (bulk(encode(KEY, ENTRY), encode(KEY, ENTRY)), 0, 0), (b"+OK\r\n", 0, 0), (b"$-1\r\n", 0, 0),
        (b"-LOADING Redis is loading the dataset in memory\r\n", 1, 0), (b"-NOAUTH Authentication required.\r\n", 1, 0),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1, 0), (b"*1\r\n$abc\r\n", 1, 0), (b"\xff\xfe\r\n", 1, 0),
        (b"*9999999\r\n", 1, 0), (None, 1, 0),
    ],
)  # fmt: skip
def test_whatever_a_server_says_is_a_miss(
    answer: bytes | None, failures: int, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_cache, "CLOSING", 0.01)
    if answer is None:
        monkeypatch.setattr(redis_cache, "PATIENCE", SHORT)

    async def test() -> None:
        async with open_bad(answering(answer)) as cache:
            assert await cache.get_many([KEY], WIDTH) == [None]
            assert (cache.stats.failures, cache.stats.wrong, cache.stats.misses) == (failures, wrong, 1)

    run(test())


def test_a_server_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three requests that waited in vain no other waits, until one may try again."""
    monkeypatch.setattr(redis_cache, "CLOSING", 0.01)
    monkeypatch.setattr(redis_cache, "PATIENCE", SHORT)
    clock = Clock()

    async def test() -> None:
        async with open_bad(answering(None), Breaker(clock=clock)) as cache:
            for _ in range(50):
                assert await cache.get_many([KEY, OTHER], WIDTH) == [None, None]
            assert (cache.stats.is_paused, cache.stats.failures, cache.stats.skipped) == (True, 3, 2 * 47)
            clock.now += cache._reading.pause
            await asyncio.gather(*(cache.get_many([KEY], WIDTH) for _ in range(10)))
            assert (cache.stats.failures, cache.stats.skipped) == (4, 2 * 47 + 9)

    run(test())


def test_what_waits_to_be_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes nothing costs no more memory than was said; the oldest entries are dropped."""
    monkeypatch.setattr(redis_cache, "CLOSING", 0.01)
    size = len(encode(KEY, ENTRY))
    monkeypatch.setattr(redis_cache, "MOST_WAITING", 10 * size)

    async def test() -> None:
        cache = RedisCache("redis://127.0.0.1:1")
        keys = make_keys(TEXT, "model", TextOptions(), [str(number) for number in range(25)])
        await cache.put_many(dict.fromkeys(keys, ENTRY))
        await cache.put_many(dict.fromkeys(keys[-5:], ENTRY))
        assert list(cache._waiting) == [*keys[-10:]]
        assert (cache.stats.dropped, cache._waiting_bytes) == (15, 10 * size)
        await cache.close()

    run(test())


def test_a_client_that_leaves_frees_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are cancelled while they wait for Redis: as many again find a connection, and are not told of it."""
    monkeypatch.setattr(redis_cache, "CONNECTIONS", 2)

    async def test() -> None:
        is_hanging = True

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while asked := await reader.read(65_536):
                if not is_hanging:
                    writer.write(bulk(encode(KEY, ENTRY)) * len(COMMAND.findall(asked)))
            writer.close()

        async with open_bad(talk) as cache:
            leaving = [asyncio.create_task(cache.get_many([KEY], WIDTH)) for _ in range(10)]
            await asyncio.sleep(0.005)
            for one in leaving:
                one.cancel()
            assert all(one.cancelled() for one in (await asyncio.wait(leaving))[0])
            is_hanging = False
            (found,) = await cache.get_many([KEY], WIDTH)
            assert found is not None and found.vector.tobytes() == ENTRY.vector.tobytes()

    run(test())


# the choice


def test_the_cache_is_chosen_by_name() -> None:
    assert open_cache(ServeSettings(cache="none")) is None
    chosen = open_cache(ServeSettings(cache_bytes=77, cache_seconds=5))
    assert isinstance(chosen, MemoryCache) and (chosen.most_bytes, chosen.seconds) == (77, 5)
    assert isinstance(open_cache(ServeSettings(cache="redis://localhost:6379/0")), RedisCache)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ServeSettings(cache="disk"), "no cache 'disk'"), (ServeSettings(cache="redis://localhost:port"), "URL of Redis"),
        (ServeSettings(cache_bytes=0), "0 bytes"), (ServeSettings(cache_seconds=0), "0 seconds"),
        (ServeSettings(cache_seconds=float("nan")), "nan seconds"),
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_is_refused(settings: ServeSettings, message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        open_cache(settings)
    assert refused.value.advice


def test_redis_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingPackageError) as refused:
        open_cache(ServeSettings(cache="redis://localhost"))
    assert "graphsurgery[redis]" in refused.value.advice
