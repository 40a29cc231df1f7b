"""Towers without a model, whose runs a test can hold, watch and spoil; and services on them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.serving.answers import Answers
from graphsurgery.serving.cache import Cache
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import TEXT, Facts, Prepared, TextOptions, Tower

POISON, BAD, NOT_A_NUMBER = "poison", "bad", "not a number"
WIDTH = 3


class FakeTower:
    """A text of n words has n tokens and the vector (n, its length, 1). It waits at a gate, if a test closes that."""

    kind, is_padded, width, identity = TEXT, True, WIDTH, "fake"
    most_at_once = 1

    def __init__(self, budget: int = 8) -> None:
        self.budget = budget
        self.runs: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.spoil: Callable[[list[str]], None] = lambda _: None

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | GraphSurgeryError]:
        return [
            InvalidRequestError("the text is bad") if one == BAD
            else Prepared(one, len(one.split()), len(one.split()), len(one) > 1000, options.prompt)
            for one in inputs
        ]  # fmt: skip

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        texts = [one.content for one in inputs]
        self.entered.release()
        self.gate.wait(20)
        self.runs.append(texts)
        self.spoil(texts)
        if POISON in texts:
            raise RuntimeError("the run fails")
        rows = [[one.size, np.nan if one.content == NOT_A_NUMBER else len(one.content), 1] for one in inputs]
        return np.array(rows, dtype=np.float32)

    def warm_up(self) -> None:
        return None

    @property
    def facts(self) -> Facts:
        return Facts("fake.onnx", "0" * 64, self.width)

    async def wait_for_run(self) -> None:
        """Wait until a run has begun."""
        while not self.entered.acquire(blocking=False):
            await asyncio.sleep(0.001)

    async def hold(self, service: Service, *texts: str) -> list[asyncio.Task[Answers]]:
        """Close the gate, and ask for each text in a request of its own: the first one runs, the others wait."""
        self.gate.clear()
        held = [asyncio.create_task(service.answer(TEXT, [text])) for text in texts]
        await self.wait_for_run()
        await asyncio.sleep(0.01)
        return held


@asynccontextmanager
async def serving(tower: Tower, cache: Cache | None = None, **settings: Any) -> AsyncIterator[Service]:
    """A started service on one tower."""
    service = Service({TEXT: tower}, ServeSettings(**settings), cache)
    await service.start()
    try:
        yield service
    finally:
        if isinstance(tower, FakeTower):
            tower.gate.set()
        await service.stop(10)
