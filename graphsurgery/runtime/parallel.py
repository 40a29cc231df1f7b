"""A model in up to two sessions: one for single runs on all threads, one for many runs at once on one thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from graphsurgery.model.model import Model
from graphsurgery.runtime.devices import CPU, Device
from graphsurgery.runtime.session import Arrays, Runner, Session, open_session

LARGEST_TWICE = 1 << 29
"""A file with more bytes of weights than this is opened only once, because a second session holds all weights again."""
MANY = 8
"""The second session is opened for at least this many runs for each thread, because opening it takes as long as a few runs."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class ParallelSession:
    """A model that does a single run on all threads, and many runs at once, each on a thread of its own.

    Within a run on several threads, each thread waits for the slowest at every operator. Runs on one thread each never wait for
    each other, so many runs end sooner in this way. They need a second session, which holds the weights in memory again. Any
    number of threads may use a `ParallelSession`.
    """

    def __init__(self, model: Model, threads: int, device: Device = CPU) -> None:
        """Load ``model`` for runs on ``threads`` threads. Raises what `open_session` raises."""
        self._model, self._device = model, device
        self._wide = open_session(model, threads=threads, device=device)
        self.most = threads if device.is_cpu and model.weight_bytes <= LARGEST_TWICE else 1
        """How many runs may go on at once, each with a thread of its own. 1 if the model is not opened a second time."""
        self._many: tuple[Session, ThreadPoolExecutor] | None = None
        """The session of one thread, and the threads that run it."""
        self._lock = threading.Lock()
        self._running = 0

    @property
    def providers(self) -> list[str]:
        """ONNX Runtime's names of what the model runs on, the preferred one first."""
        return self._wide.providers

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once, as `Session.run` does, and raise what it raises.

        The run uses all threads. If other runs go on and `prepare_for_many` was called before, it uses one thread.
        """
        with self._count_run() as others:
            session = self._many[0] if self._many is not None and others else self._wide
            return session.run(feeds, outputs)

    def run_each(self, run: Callable[[Runner, Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
        """Yield ``run(session, item)`` for each item, in order: `most` of them at a time if there are many.

        If the generator is closed, items that have not begun do not run.
        """
        if self.most == 1 or len(items) < MANY * self.most:
            yield from (run(self._wide, one) for one in items)
        else:
            yield from self._run_at_once(run, items)

    def run_all(self, every: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
        """Run once for each of the feeds, `most` of them at a time, and return all outputs of each."""
        return list(self._run_at_once(lambda session, feeds: session.run(feeds), every))

    def _run_at_once(self, run: Callable[[Runner, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        narrow, pool = self.prepare_for_many()
        return pool.map(lambda one: run(narrow, one), items)

    def prepare_for_many(self) -> tuple[Session, ThreadPoolExecutor]:
        """Open the second session, if it is not open. Return it, and the pool of threads that run it."""
        with self._lock:
            if self._many is None:
                narrow = open_session(self._model, threads=1, device=self._device) if self.most > 1 else self._wide
                self._many = narrow, ThreadPoolExecutor(self.most, thread_name_prefix="run")
            return self._many

    @contextmanager
    def _count_run(self) -> Iterator[int]:
        """Count a run while it goes on, and yield how many others go on."""
        with self._lock:
            others, self._running = self._running, self._running + 1
        try:
            yield others
        finally:
            with self._lock:
                self._running -= 1
