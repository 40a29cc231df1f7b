"""The service that all routes use. It looks inputs up in the cache and computes the others, none of them twice at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graphsurgery.embedding.tokenizer import Token
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.runtime.devices import count_processors
from graphsurgery.serving.answers import Answer, Answers
from graphsurgery.serving.cache import Cache
from graphsurgery.serving.engine import Engine, Ticket
from graphsurgery.serving.entries import Entry
from graphsurgery.serving.errors import (
    EmptyRequestError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    UnhealthyError,
    UnknownRouteError,
)
from graphsurgery.serving.flights import Flight, Flights, Landed
from graphsurgery.serving.keys import make_keys
from graphsurgery.serving.logs import logger
from graphsurgery.serving.memory_cache import MemoryCache
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import TEXT, Facts, Prepared, TextOptions, Tower
from graphsurgery.serving.watcher import Watcher

INLINE = 2000
"""Texts of up to this many characters are tokenised in the event loop: handing them to a thread takes longer."""
LEAST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""The limits of Retry-After, in seconds."""
USUAL = TextOptions()


class Service:
    """Answers requests with the towers of a folder. All of its methods are called from one event loop."""

    def __init__(
        self, towers: Mapping[str, Tower], settings: ServeSettings, cache: Cache | None = None, watcher: Watcher | None = None
    ) -> None:
        """Make a service that does not run yet.

        Args:
            towers: the towers of the folder by their kinds. They share one engine; a batch holds inputs of one tower only.
            settings: its limits.
            cache: where rows are kept; None for no cache.
            watcher: is told about runs, answers and refusals.
        """
        self.towers, self.settings, self.cache = dict(towers), settings, cache
        self._near = cache if isinstance(cache, MemoryCache) else None
        """The cache, if it answers at once."""
        self._far = cache if self._near is None else None
        """The cache, if it has to be waited for."""
        self.on_death: Callable[[BaseException], None] = lambda _: None
        """Called in the event loop if a bug ends the engine."""
        self.watcher = watcher or Watcher()
        most = max(one.most_at_once for one in towers.values())
        self._engine = Engine(self._settle_from_thread, self.watcher.see_batch, self._die_from_thread, most)
        self._flights = Flights()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(count_processors(), thread_name_prefix="prepare")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._facts: dict[str, Facts] = {}
        self.answered = 0
        """The requests that were answered."""
        self._inside = 0
        self._is_warm = self._is_draining = False

    async def start(self) -> None:
        """Warm up the towers and start the engine. Raises what a tower raises if it cannot run."""
        self._loop = asyncio.get_running_loop()
        for tower in self.towers.values():
            await self._loop.run_in_executor(self._pool, tower.warm_up)
        self._facts = {kind: tower.facts for kind, tower in self.towers.items()}
        self._engine.start()
        self._is_warm = True

    def drain(self) -> None:
        """From now on, answer new requests with 503. Requests in flight continue."""
        self._is_draining = True

    async def stop(self, seconds: float | None = None) -> bool:
        """Take no more requests, and return whether all in flight were answered within ``seconds``."""
        self.drain()
        is_done = await asyncio.to_thread(self._engine.stop, seconds)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for one in self._tasks:
            one.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.cache is not None:
            await self.cache.close()
        return is_done

    # --- what is known of it ----------------------------------------------------------------------------------------------

    @property
    def is_healthy(self) -> bool:
        """False once an error has ended the engine, and while a run hangs."""
        return self._engine.is_healthy

    @property
    def is_running(self) -> bool:
        """Whether a thread of the engine is alive."""
        return self._engine.is_running

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered: the towers are warm, the engine runs, and the service is not ending."""
        return self._is_warm and not self._is_draining and self.is_healthy

    @property
    def inside(self) -> int:
        """The inputs of all requests that are being answered."""
        return self._inside

    @property
    def waiting(self) -> int:
        """The inputs that wait for the engine."""
        return self._engine.waiting

    @property
    def expected_wait(self) -> float:
        """The seconds that the inputs that wait for the engine will take."""
        return self._engine.expected_wait

    @property
    def facts(self) -> dict[str, Facts]:
        """The facts about each tower, by its kind."""
        return self._facts or {kind: tower.facts for kind, tower in self.towers.items()}

    def require_room(self) -> None:
        """Raise UnhealthyError if no requests are answered at the moment, OverloadedError if the queue is full.

        The guards call this before they read a body. A request that is admitted adds all of its inputs, so that large requests
        get their turn, too. The queue therefore holds fewer than ``max_queue + max_items`` inputs.
        """
        if not self.is_ready:
            raise UnhealthyError("the service is starting, ending or broken", "ask again later")
        self._require_queue()

    def _require_queue(self) -> None:
        if not self._is_warm:
            raise UnhealthyError("the service is starting", "ask again later")
        wait = self._engine.expected_wait
        if self._inside >= self.settings.max_queue or wait > self.settings.max_queue_seconds:
            raise OverloadedError(
                f"{self._inside} inputs wait or run already", "ask again after the seconds of Retry-After",
                min(max(wait, LEAST_WAIT), LONGEST_WAIT),
            )  # fmt: skip

    # --- requests ---------------------------------------------------------------------------------------------------------

    async def answer(self, kind: str, inputs: Sequence[Any], options: TextOptions = USUAL) -> Answers:
        """Return an answer for each input, in their order. If an input is wrong, its own answer holds the error.

        Raises:
            UnknownRouteError: the folder has no tower of this kind.
            EmptyRequestError, InvalidRequestError: there are no inputs, or more than ``max_items``.
            OverloadedError: the queue is full.
            UnhealthyError: the service is starting or ending, or its engine has failed.
        """
        start = time.perf_counter()
        try:
            tower = self._require_tower(kind)
            with self._admit(inputs):
                answers = await self._answer(tower, inputs, options)
        except BaseException as error:  # CancelledError is a client that left
            self.watcher.see_refusal(error)
            raise
        self.answered += 1
        self.watcher.see_answers(kind, answers, time.perf_counter() - start)
        return answers

    @contextmanager
    def _admit(self, inputs: Sequence[Any]) -> Iterator[None]:
        """Count the inputs as inside while they are answered. Raises EmptyRequestError, InvalidRequestError, OverloadedError
        and UnhealthyError, as `answer` does.

        A request that came before the service was told to end is admitted.
        """
        self._check_inputs(inputs)
        self._require_queue()
        self._inside += len(inputs)
        try:
            yield
        finally:
            self._inside -= len(inputs)

    def _check_inputs(self, inputs: Sequence[Any]) -> None:
        if not inputs:
            raise EmptyRequestError("the request has no inputs", "send one input or more")
        if len(inputs) > self.settings.max_items:
            raise InvalidRequestError(
                f"the request has {len(inputs)} inputs, and the service takes {self.settings.max_items}",
                "send several requests",
            )

    async def list_tokens(
        self, texts: Sequence[str], options: TextOptions = USUAL, adds_special: bool = True
    ) -> list[list[Token]]:
        """Return the tokens of each text, as `TextTower.list_tokens` does. Raises what `answer` raises, and InvalidRequestError
        for a text that cannot be tokenised."""
        list_tokens = getattr(self._require_tower(TEXT), "list_tokens", None)
        if list_tokens is None:
            raise UnknownRouteError("this model does not list tokens", "send texts to be embedded")
        with self._admit(texts):
            return await self._call(lambda: [list_tokens(one, options, adds_special) for one in texts])

    def _require_tower(self, kind: str) -> Tower:
        tower = self.towers.get(kind)
        if tower is None:
            raise UnknownRouteError(
                f"this model takes no {kind} inputs", f"it takes {', '.join(self.towers)}: see /info for what it is"
            )
        return tower

    async def _answer(self, tower: Tower, inputs: Sequence[Any], options: TextOptions) -> Answers:
        keys = make_keys(tower.kind, tower.identity, options, inputs)
        waiting, new = self._flights.join(keys)
        if new:
            by_key = dict(zip(keys, inputs, strict=True))
            self._begin(_Job(tower, options, {key: by_key[key] for key in new}, new))
        return await waiting.wait()

    def _begin(self, job: _Job) -> None:
        """Look inputs up in the cache, and hand the others to the engine.

        If nothing has to be waited for, this happens at once. Otherwise it happens in a separate task, which continues if the
        client of this request leaves, because other requests may wait for the same inputs.
        """
        if self._far is None:
            try:
                if self._near is not None:
                    self._take_hits(job, self._near.find(list(job.inputs), job.tower.width))
                if job.is_short:
                    self._submit(job, job.prepare())
                    return
            except Exception as error:
                self._fail(job, error)
                return
        self._keep_task(self._fly(job))

    async def _fly(self, job: _Job) -> None:
        try:
            if self._far is not None:
                self._take_hits(job, await self._far.get_many(list(job.inputs), job.tower.width))
            if job.inputs:
                self._submit(job, job.prepare() if job.is_short else await self._call(job.prepare))
        except Exception as error:
            self._fail(job, error)

    def _keep_task(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take_hits(self, job: _Job, found: Sequence[Entry | None]) -> None:
        """Answer the inputs that the cache holds, and remove them from the job."""
        for key, entry in zip(list(job.inputs), found, strict=True):
            if entry is not None:
                del job.inputs[key]
                self._flights.land(key, Landed(Answer(entry.vector, entry.tokens, entry.is_cut, from_cache=True)))

    def _submit(self, job: _Job, prepared: Sequence[Prepared | GraphSurgeryError]) -> None:
        tickets = []
        for key, one in zip(job.inputs, prepared, strict=True):
            if isinstance(one, Prepared):
                flight = job.flights[key]
                flight.ticket = Ticket(key, job.tower, one, flight.waiters, preparation=job.seconds)
                tickets.append(flight.ticket)
            else:
                self._flights.land(key, Landed(Answer(None, error=one), job.seconds))
        if tickets:
            self._engine.submit(tickets)

    def _fail(self, job: _Job, error: Exception) -> None:
        if isinstance(error, GraphSurgeryError):
            told = error
        else:  # a bug; its text may be private, so the client does not see it
            logger.error("inputs could not be made ready", exc_info=error)
            told = ServiceError("the service failed on this request")
        self._flights.land_all(job.flights.items(), Landed(Answer(None, error=told)))

    async def _call(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    # --- results ----------------------------------------------------------------------------------------------------------

    def _settle_from_thread(self, tickets: Sequence[Ticket]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, tickets)

    def _die_from_thread(self, error: BaseException) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.on_death, error)

    def _settle(self, tickets: Sequence[Ticket]) -> None:
        kept = {}
        for one in tickets:
            flight = self._flights.find(one.key)
            if one.is_dropped and flight is not None and flight.waiters:  # somebody asked again while it was being dropped
                self._submit_again(one, flight)
                continue
            if one.vector is not None:
                kept[one.key] = Entry(one.vector, one.input.tokens, one.input.is_cut)
            answer = Answer(one.vector, one.input.tokens, one.input.is_cut, one.error)
            self._flights.land(one.key, Landed(answer, one.preparation, one.queue, one.run))
        if self._near is not None:
            self._near.keep(kept)
        elif self._far is not None and kept:
            self._keep_task(self._far.put_many(kept))

    def _submit_again(self, ticket: Ticket, flight: Flight) -> None:
        ticket.is_dropped, ticket.waiters = False, flight.waiters
        try:
            self._engine.submit([ticket])
        except UnhealthyError as error:
            self._flights.land(ticket.key, Landed(Answer(None, error=error)))


@dataclass(eq=False, slots=True)
class _Job:
    """The inputs of a request that no earlier request is computing already."""

    tower: Tower
    options: TextOptions
    inputs: dict[bytes, Any]
    flights: Mapping[bytes, Flight]
    seconds: float = 0.0
    """The seconds that preparing the inputs took."""

    @property
    def is_short(self) -> bool:
        """Whether preparing the inputs takes less time than handing them to a thread."""
        return (
            self.tower.kind == TEXT
            and sum(len(one) if isinstance(one, str) else INLINE for one in self.inputs.values()) < INLINE
        )

    def prepare(self) -> Sequence[Prepared | GraphSurgeryError]:
        start = time.perf_counter()
        try:
            return self.tower.prepare(list(self.inputs.values()), self.options)
        finally:
            self.seconds = time.perf_counter() - start
