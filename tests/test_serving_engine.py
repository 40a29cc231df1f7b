"""The engine and the service on it: nobody waits for ever, nothing is computed twice at once, and failures stay alone."""

from __future__ import annotations

import asyncio
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from serving import BAD, NOT_A_NUMBER, POISON, FakeTower, serving

from graphsurgery.serving import engine
from graphsurgery.serving.errors import (
    EmptyRequestError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    UnhealthyError,
    UnknownRouteError,
)
from graphsurgery.serving.memory_cache import MemoryCache
from graphsurgery.serving.scheduling import RUN_COST, WaitingLine, choose_batch
from graphsurgery.serving.service import INLINE
from graphsurgery.serving.towers import PAIR, TEXT, TextOptions

SHORT, LONG = 13, 256


# --- which inputs run next -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "budget", "padded", "wanted"),
    [
        ([10], 5, True, [0]),
        ([10, 10, 10, 10], 30, True, [0, 1, 2]),
        ([10, 30, 12, 9, 11], 44, True, [0, 3, 4]),
        ([256, 13, 13, 13], 512, True, [0]),
        ([256, 13, 250, 252], 768, True, [0, 3, 2]),
        ([13, 256, 13, 13], 512, True, [0, 2, 3]),
        ([10, 14, 14], 100, True, [0, 1, 2]),
        ([10, 20, 5, 60], 40, False, [0, 2, 1]),
        ([50, 10, 20], 40, False, [0]),
    ],
    ids=["too long", "as many as fit", "nearest", "no padding for one", "near a long one", "not beside a long one",
         "a little padding", "sums", "too long, sums"],
)  # fmt: skip
def test_the_oldest_runs_with_those_nearest_in_length(sizes, budget, padded, wanted) -> None:
    assert choose_batch(sizes, budget, padded=padded) == wanted


def test_any_line_is_cut_within_the_budget_and_without_much_padding() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 300, rng.integers(1, 60)).tolist()
        rows = choose_batch(sizes, 512)
        chosen = [sizes[place] for place in rows]
        assert rows[0] == 0 and len(set(rows)) == len(rows)
        assert len(rows) == 1 or len(rows) * max(chosen) <= 512
        assert sum(max(chosen) - size for size in chosen) <= 2 * RUN_COST * len(rows)


def test_a_long_text_is_run_in_an_endless_stream_of_short_ones() -> None:
    """Whatever comes behind it, the long text runs as soon as it is the oldest."""
    line: WaitingLine = WaitingLine()
    for arrival in range(20):
        line.add(SimpleNamespace(size=SHORT, group=0, arrival=arrival))
    line.add(SimpleNamespace(size=LONG, group=0, arrival=20))
    batches_of_its_turn = 0
    for arrival in range(21, 2000):
        line.add(SimpleNamespace(size=SHORT, group=0, arrival=arrival))
        line.add(SimpleNamespace(size=SHORT, group=1, arrival=arrival + 0.5))
        oldest = line.find_oldest()
        batches_of_its_turn += oldest is not None and oldest.arrival >= 20
        taken = line.take(oldest.group, 26)
        if any(one.size == LONG for one in taken):
            break
    assert any(one.size == LONG for one in taken) and batches_of_its_turn <= 2


# --- answers ---------------------------------------------------------------------------------------------------------------


def run(coroutine) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))


def test_each_input_has_its_own_answer_in_the_order_of_the_request() -> None:
    async def check() -> None:
        async with serving(FakeTower()) as service:
            texts = ["one two", "one", BAD, "one two three", "one"]
            found = await service.answer(TEXT, texts)
            assert [None if one.vector is None else one.vector.tolist() for one in found.answers] == [
                [2, 7, 1], [1, 3, 1], None, [3, 13, 1], [1, 3, 1]
            ]  # fmt: skip
            assert isinstance(found.answers[2].error, InvalidRequestError)
            assert found.tokens == 2 + 1 + 3 + 1 and found.inference > 0

    run(check())


def test_what_makes_a_run_fail_fails_alone() -> None:
    async def check() -> None:
        tower = FakeTower(budget=100)
        async with serving(tower) as service:
            texts = ["a", "b", POISON, "c", NOT_A_NUMBER, "d"]
            found = (await service.answer(TEXT, texts)).answers
            assert [one.error is None for one in found] == [True, True, False, True, False, True]
            assert isinstance(found[2].error, ServiceError) and "RuntimeError" in found[2].error.message
            assert "not finite" in found[4].error.message
            assert service.is_healthy and (await service.answer(TEXT, ["e"])).answers[0].vector is not None

    run(check())


def test_a_tower_that_gives_too_few_rows_fails_its_inputs_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTower, "run", lambda *_: np.ones((3, 3), dtype=np.float32))

    async def check() -> None:
        async with serving(FakeTower(budget=100)) as service:
            found = (await service.answer(TEXT, ["a", "b"])).answers
            assert all("3 rows for 1 inputs" in one.error.message for one in found) and service.is_healthy

    run(check())


@pytest.mark.parametrize(
    ("kind", "inputs", "error"),
    [(TEXT, [], EmptyRequestError), (TEXT, ["a"] * 6, InvalidRequestError), (PAIR, ["a"], UnknownRouteError)],
)
def test_requests_that_cannot_be_answered_are_refused(kind, inputs, error) -> None:
    async def check() -> None:
        async with serving(FakeTower(), max_items=5) as service:
            with pytest.raises(error):
                await service.answer(kind, inputs)

    run(check())


# --- one flight for each input ---------------------------------------------------------------------------------------------


def test_identical_inputs_are_computed_once_while_they_are_in_flight() -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower) as service:
            found = await asyncio.gather(*(service.answer(TEXT, ["same", "same"]) for _ in range(10)))
            assert sum(map(len, tower.runs)) == 1
            assert len({one.answers[1].vector.tobytes() for one in found}) == 1
            await service.answer(TEXT, ["same"])
            assert sum(map(len, tower.runs)) == 2, "without a cache nothing is kept"
            other = await service.answer(TEXT, ["same"], TextOptions(prompt="x"))
            assert sum(map(len, tower.runs)) == 3 and other.answers[0].vector is not None

    run(check())


def test_a_client_that_leaves_does_not_take_the_result_from_others() -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower) as service:
            (first,) = await tower.hold(service, "same")
            second = asyncio.create_task(service.answer(TEXT, ["same"]))
            await asyncio.sleep(0.01)
            first.cancel()
            tower.gate.set()
            assert (await second).answers[0].vector is not None and first.cancelled()
            assert tower.runs == [["same"]]

    run(check())


def test_inputs_that_nobody_waits_for_are_left_out() -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower) as service:
            (held,) = await tower.hold(service, "held")
            gone = asyncio.create_task(service.answer(TEXT, ["gone"]))
            await asyncio.sleep(0.01)
            assert service.waiting == 1 and service.inside == 2
            gone.cancel()
            await asyncio.sleep(0)
            kept = asyncio.create_task(service.answer(TEXT, ["kept"]))
            await asyncio.sleep(0.01)
            tower.gate.set()
            await asyncio.gather(held, kept)
            assert tower.runs == [["held"], ["kept"]] and service.inside == 0
            assert (await service.answer(TEXT, ["gone"])).answers[0].vector is not None

    run(check())


def test_an_error_is_not_kept() -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower, MemoryCache(10_000, None)) as service:
            tower.spoil = lambda _: (_ for _ in ()).throw(RuntimeError)
            assert (await service.answer(TEXT, ["a"])).answers[0].error is not None
            tower.spoil = lambda _: None
            found = await service.answer(TEXT, ["a"])
            assert found.answers[0].vector is not None and not found.answers[0].from_cache
            await asyncio.sleep(0)
            again = (await service.answer(TEXT, ["a"])).answers[0]
            assert again.from_cache and again.tokens == 1 and np.array_equal(again.vector, found.answers[0].vector)

    run(check())


# --- bounds, the end, and death --------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower, max_queue=4, max_queue_seconds=1e9) as service:
            held = await tower.hold(service, "0 a", "1 a", "2 a", "3 a")
            with pytest.raises(OverloadedError) as refused:
                await service.answer(TEXT, ["more"])
            assert refused.value.retry_after >= 1
            with pytest.raises(OverloadedError):
                service.require_room()
            tower.gate.set()
            await asyncio.gather(*held)
            assert (await service.answer(TEXT, ["more"])).answers[0].vector is not None

    run(check())


def test_a_queue_that_would_take_too_long_refuses() -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower, max_queue=1000, max_queue_seconds=1e-9) as service:
            await service.answer(TEXT, ["so that the speed is known"])
            await tower.wait_for_run()
            tower.gate.clear()
            held = [asyncio.create_task(service.answer(TEXT, ["held"]))]
            await tower.wait_for_run()
            held.append(asyncio.create_task(service.answer(TEXT, ["waits"])))
            await asyncio.sleep(0.01)
            with pytest.raises(OverloadedError):
                await service.answer(TEXT, ["more"])
            tower.gate.set()
            await asyncio.gather(*held)

    run(check())


def test_what_is_in_flight_is_answered_before_the_end() -> None:
    async def check() -> None:
        tower = FakeTower(budget=1)
        async with serving(tower) as service:
            held = await tower.hold(service, "0", "1", "2", "3", "4")
            service.drain()
            assert not service.is_ready and service.is_healthy
            with pytest.raises(UnhealthyError):
                service.require_room()
            assert not await service.stop(0.01), "a run hangs"
            tower.gate.set()
            assert await service.stop(10)
            assert all(one.answers[0].vector is not None for one in await asyncio.gather(*held))
            assert isinstance((await service.answer(TEXT, ["late"])).answers[0].error, UnhealthyError)

    run(check())


def test_a_run_that_hangs_is_told_by_health(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        tower = FakeTower()
        async with serving(tower) as service:
            (held,) = await tower.hold(service, "held")
            assert service.is_healthy
            monkeypatch.setattr(engine, "STUCK", 0.0)
            assert not service.is_healthy and not service.is_ready
            tower.gate.set()
            await held
            assert service.is_healthy and service.is_ready

    run(check())


def test_a_long_text_that_is_tokenised_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts are tokenised by threads, and short ones need none of them."""
    prepare, gate = FakeTower.prepare, threading.Event()

    def prepare_slowly(tower: FakeTower, inputs: list[str], options: TextOptions) -> list:
        if len(inputs[0]) > INLINE:
            gate.wait(20)
        return prepare(tower, inputs, options)

    async def check() -> None:
        async with serving(FakeTower(budget=10_000)) as service:
            held = [asyncio.create_task(service.answer(TEXT, [f"{number} " * INLINE])) for number in range(10)]
            await asyncio.sleep(0.01)
            assert (await service.answer(TEXT, ["short"])).answers[0].vector is not None
            gate.set()
            assert all(one.answers[0].tokens == INLINE for one in await asyncio.gather(*held))

    monkeypatch.setattr(FakeTower, "prepare", prepare_slowly)
    run(check())


def test_the_death_of_the_engine_is_told_to_all_who_wait() -> None:
    class Death(BaseException):
        pass

    async def check() -> None:
        tower, told = FakeTower(budget=1), []
        async with serving(tower) as service:
            service.on_death = told.append
            tower.gate.clear()
            tower.spoil = lambda _: (_ for _ in ()).throw(Death)
            held = [asyncio.create_task(service.answer(TEXT, [f"{number}"])) for number in range(3)]
            await tower.wait_for_run()
            await asyncio.sleep(0.01)
            tower.gate.set()
            assert all(isinstance(one.answers[0].error, UnhealthyError) for one in await asyncio.gather(*held))
            while not told:
                await asyncio.sleep(0.001)
            assert [type(one) for one in told] == [Death] and not service.is_healthy and not service.is_ready

    run(check())


# --- several runs at once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTower, "most_at_once", 2)


@pytest.mark.usefixtures("two_at_once")
def test_two_batches_run_at_once_and_what_waits_is_taken_by_whoever_is_free() -> None:
    async def check() -> None:
        tower = FakeTower(budget=1)
        async with serving(tower) as service:
            held = await tower.hold(service, "0", "1", "2", "3")
            await tower.wait_for_run()
            assert service.waiting == 2 and tower.runs == []
            tower.gate.set()
            found = [one.answers[0].vector for one in await asyncio.gather(*held)]
            assert all(one is not None for one in found) and sorted(tower.runs) == [["0"], ["1"], ["2"], ["3"]]
            assert await service.stop(10) and not service.is_running

    run(check())


@pytest.mark.parametrize(("at_once", "wait"), [(1, 1.0), (2, 0.5)])
def test_the_wait_is_that_of_all_runs_together(at_once: int, wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of one token takes a second. If two go on at once, the engine computes two tokens a second."""
    seconds = itertools.count()
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    made, tower = engine.Engine(lambda _: None), FakeTower()
    prepared = tower.prepare(["a"], TextOptions())[0]
    made._run(engine.Run([], at_once), [engine.Ticket(b"", tower, prepared)])  # type: ignore[arg-type]
    made._line.add(engine.Ticket(b"", tower, prepared))  # type: ignore[arg-type]
    assert made.expected_wait == wait


@pytest.mark.usefixtures("two_at_once")
def test_a_thread_that_dies_ends_the_engine_and_leaves_the_other_run_its_result() -> None:
    class Death(BaseException):
        pass

    def die(texts: list[str]) -> None:
        if texts == ["dies"]:
            raise Death

    async def check() -> None:
        tower, told = FakeTower(budget=1), []
        async with serving(tower) as service:
            service.on_death, tower.spoil = told.append, die
            held = await tower.hold(service, "dies", "lives", "waits")
            await tower.wait_for_run()
            tower.gate.set()
            dead, alive, waiting = (one.answers[0] for one in await asyncio.gather(*held))
            assert isinstance(dead.error, UnhealthyError) and isinstance(waiting.error, UnhealthyError | None)
            assert alive.vector is not None
            while not told:
                await asyncio.sleep(0.001)
            assert len(told) == 1 and not service.is_healthy
            with pytest.raises(UnhealthyError):
                service.require_room()

    run(check())
