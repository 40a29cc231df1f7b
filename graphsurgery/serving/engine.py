"""The engine: threads that run the waiting inputs. As soon as a thread is free, it takes the next batch."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.serving.errors import ServiceError, UnhealthyError
from graphsurgery.serving.scheduling import WaitingLine
from graphsurgery.serving.towers import Prepared, Tower

STUCK = 120.0
"""A run that takes more seconds than this counts as hanging, and the service as unhealthy."""
LATEST = 0.2
"""The weight of the latest run in the moving average of a tower's speed."""


@dataclass(eq=False, slots=True)
class Ticket:
    """An input in the engine. The engine writes the result into it."""

    key: bytes
    tower: Tower
    input: Prepared
    waiters: int = 1
    """How many requests wait for the result. If none does any more, the engine does not run the input."""
    arrival: float = field(default_factory=time.perf_counter)
    preparation: float = 0.0
    """The seconds that preparing the input took."""
    queue: float = 0.0
    """The seconds that the input waited in the queue."""
    run: float = 0.0
    """The seconds of its run."""
    vector: np.ndarray | None = None
    error: GraphSurgeryError | None = None
    is_dropped: bool = False

    @property
    def size(self) -> int:
        return self.input.size

    @property
    def group(self) -> Hashable:
        return self.tower.kind, self.input.group


@dataclass(frozen=True)
class Batch:
    """A run that is done."""

    tickets: Sequence[Ticket]
    seconds: float
    positions: int
    """The positions that were computed, padding included."""


@dataclass(eq=False, slots=True)
class Run:
    """A batch that one of the threads has taken."""

    tickets: Sequence[Ticket]
    at_once: int
    """How many batches were running at that time, this one included."""
    start: float = field(default_factory=time.perf_counter)


class Engine:
    """Runs inputs in batches, in threads of its own. If an input makes a run fail, only that input gets an error.

    Any thread may call the engine. It calls ``settle`` with the results, in its own threads.
    """

    def __init__(
        self,
        settle: Callable[[Sequence[Ticket]], None],
        watch: Callable[[Batch], None] = lambda _: None,
        on_death: Callable[[BaseException], None] = lambda _: None,
        most_at_once: int = 1,
    ) -> None:
        """Make an engine that does not run yet.

        Args:
            settle: called with tickets that have a result: a vector, an error, or the mark that they were dropped.
            watch: called with each run that is done, for metrics.
            on_death: called once if a bug ends a thread. All tickets that wait have an error by then.
            most_at_once: how many batches run at once.
        """
        self._settle, self._watch, self._on_death = settle, watch, on_death
        self._line: WaitingLine[Ticket] = WaitingLine()
        self._changed = threading.Condition()
        self._speeds: dict[str, float] = {}
        self._runs: list[Run] = []
        self._is_open = False
        self._death: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, name="engine", daemon=True) for _ in range(most_at_once)]

    def start(self) -> None:
        self._is_open = True
        for one in self._threads:
            one.start()

    def stop(self, seconds: float | None = None) -> bool:
        """Take no more inputs and run those that wait. Return whether that ended within ``seconds``."""
        end = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        for one in self._threads:
            if one.ident is not None:
                one.join(None if end is None else max(end - time.monotonic(), 0.0))
        return not self.is_running

    @property
    def is_healthy(self) -> bool:
        """False if a bug has ended a thread, or if a run hangs."""
        with self._changed:
            oldest = min((one.start for one in self._runs), default=None)
        return self._death is None and (oldest is None or time.perf_counter() - oldest < STUCK)

    @property
    def is_running(self) -> bool:
        """Whether a thread of the engine is alive."""
        return any(one.is_alive() for one in self._threads)

    @property
    def waiting(self) -> int:
        """How many inputs wait."""
        return len(self._line)

    @property
    def expected_wait(self) -> float:
        """The seconds that the waiting inputs will take, by the speed of recent runs. A tower without a run yet counts as 0."""
        with self._changed:
            sizes: Counter[str] = Counter()
            for group, size in self._line.sizes.items():
                sizes[group[0]] += size  # type: ignore[index]
        return sum(size / self._speeds[kind] for kind, size in sizes.items() if kind in self._speeds)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Put inputs into the queue. Raises UnhealthyError if the engine has stopped."""
        with self._changed:
            if not self._is_open:
                raise UnhealthyError("the service has stopped computing", "ask again when it has started again")
            for one in tickets:
                self._line.add(one)
            self._changed.notify()

    def _work(self) -> None:
        run = None
        try:
            while (run := self._wait_for_run()) is not None:
                self._run(run, run.tickets)
                with self._changed:
                    self._runs.remove(run)  # before anybody has the results: a run that is done does not hang
                self._settle(run.tickets)
                run = None
        except BaseException as error:  # whatever the error is, nothing may wait for this thread any more
            self._die(error, [] if run is None else run.tickets)

    def _wait_for_run(self) -> Run | None:
        """Return the next batch, or None if the engine is stopped and nothing waits."""
        while True:
            with self._changed:
                while not len(self._line):
                    if not self._is_open:
                        return None
                    self._changed.wait()
                dropped = self._line.drop(_is_unwanted)
                run = self._take()
            for one in dropped:
                one.is_dropped = True
            if dropped:
                self._settle(dropped)
            if run is not None:
                return run

    def _take(self) -> Run | None:
        """Take the next batch out of the line. If inputs are left, wake another thread."""
        oldest = self._line.find_oldest()
        if oldest is None:
            return None
        tower = oldest.tower
        run = Run(self._line.take(oldest.group, tower.budget, padded=tower.is_padded), len(self._runs) + 1)
        self._runs.append(run)
        if len(self._line):
            self._changed.notify()
        return run

    def _run(self, run: Run, tickets: Sequence[Ticket]) -> None:
        """Run tickets of a batch. If that fails, run each half, and so on, until only those that cannot run have an error."""
        start, tower = time.perf_counter(), tickets[0].tower
        try:
            vectors = tower.run([one.input for one in tickets])
            if len(vectors) != len(tickets):
                raise UnsupportedModelError(f"the run gave {len(vectors)} rows for {len(tickets)} inputs")
        except Exception as error:
            if len(tickets) > 1:
                middle = len(tickets) // 2
                self._run(run, tickets[:middle])
                self._run(run, tickets[middle:])
            else:
                tickets[0].error = _describe_failure(error)
                tickets[0].queue, tickets[0].run = start - tickets[0].arrival, time.perf_counter() - start
            return
        seconds = time.perf_counter() - start
        finite = np.isfinite(vectors).reshape(len(tickets), -1).all(axis=1)
        for one, vector, is_finite in zip(tickets, vectors, finite.tolist(), strict=True):
            one.queue, one.run = start - one.arrival, seconds
            if is_finite:
                one.vector = vector.copy()  # so that a row does not keep its whole batch
                one.vector.flags.writeable = False  # several requests may share it
            else:
                one.error = ServiceError("the model's numbers for this input are not finite")
        self._note_speed(tower, sum(one.size for one in tickets) * run.at_once / max(seconds, 1e-6))
        self._watch(Batch(tickets, seconds, _count_positions(tower, tickets)))

    def _note_speed(self, tower: Tower, speed: float) -> None:
        """Update the speed of a tower: tokens per second, in all threads together."""
        known = self._speeds.get(tower.kind, speed)
        self._speeds[tower.kind] = known + LATEST * (speed - known)

    def _die(self, error: BaseException, taken: Sequence[Ticket]) -> None:
        """End the engine because of a bug. The tickets that this thread has ``taken``, and all that wait, get an error."""
        with self._changed:
            is_first, self._death, self._is_open = self._death is None, error, False
            left = [*taken, *self._line.drop(lambda _: True)]
            self._changed.notify_all()
        for one in left:
            one.vector, one.error = None, UnhealthyError("the service has stopped computing", "ask again")
        try:
            self._settle(left)
        finally:
            if is_first:
                self._on_death(error)


def _is_unwanted(ticket: Ticket) -> bool:
    return ticket.waiters < 1


def _count_positions(tower: Tower, tickets: Sequence[Ticket]) -> int:
    sizes = [one.size for one in tickets]
    return max(sizes) * len(sizes) if tower.is_padded else sum(sizes)


def _describe_failure(error: Exception) -> GraphSurgeryError:
    """Return why an input could not be run. For an error of another library, name its type alone: its text may be private."""
    if isinstance(error, ServiceError):
        return error
    what = error.message if isinstance(error, UnsupportedModelError) else f"the run failed ({type(error).__name__})"
    return ServiceError(what)
