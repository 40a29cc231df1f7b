"""Inputs in flight: if several requests ask for the same input at a time, it is looked up and computed only once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from graphsurgery.serving.answers import Answer, Answers
from graphsurgery.serving.engine import Ticket


@dataclass(frozen=True, slots=True)
class Landed:
    """The result of a flight, and the seconds that its steps took."""

    answer: Answer
    tokenization: float = 0.0
    queue: float = 0.0
    run: float = 0.0


@dataclass(eq=False, slots=True)
class Flight:
    """One input that is being looked up or computed."""

    waiters: int = 0
    """The requests that wait for it."""
    ticket: Ticket | None = None
    """The input in the engine; None before it is handed over."""
    landed: Landed | None = None
    requests: list[Waiting] = field(default_factory=list)
    """The requests that are told when it lands. Some of them may have been cancelled."""

    def add_waiters(self, count: int) -> None:
        self.waiters += count
        if self.ticket is not None:
            self.ticket.waiters = self.waiters


class Waiting:
    """A request that waits for its inputs."""

    def __init__(self, keys: Sequence[bytes], flights: dict[bytes, Flight]) -> None:
        self.keys, self.flights = keys, flights
        self.left = len(flights)
        """The inputs that have not landed."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for one in flights.values():
            one.requests.append(self)
            one.add_waiters(1)

    async def wait(self) -> Answers:
        """Wait for all answers, and return them in the order of the keys. A cancelled request no longer counts as a waiter."""
        try:
            if self.left:
                await self.done
        finally:
            for one in self.flights.values():
                one.add_waiters(-1)
        found = [landed for key in self.keys if (landed := self.flights[key].landed) is not None]
        return Answers(
            [one.answer for one in found], max(one.tokenization for one in found), max(one.queue for one in found),
            max(one.run for one in found),
        )  # fmt: skip

    def note(self) -> None:
        """Note that one more input has landed."""
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class Flights:
    """The inputs in flight of all requests, by their keys. Only the event loop uses them."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}

    def join(self, keys: Sequence[bytes]) -> tuple[Waiting, dict[bytes, Flight]]:
        """Return (a request that waits for ``keys``, the flights that begin with it, which the caller has to complete)."""
        flights, new = {}, {}
        for key in keys:
            if key not in flights:
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = new[key] = Flight()
                flights[key] = flight
        return Waiting(keys, flights), new

    def find(self, key: bytes) -> Flight | None:
        return self._flights.get(key)

    def land(self, key: bytes, landed: Landed) -> None:
        """Give the result to all requests that wait for it. A later request starts a new flight, so no error is kept."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.landed = landed
            for one in flight.requests:
                one.note()

    def land_all(self, flights: Iterable[tuple[bytes, Flight]], landed: Landed) -> None:
        """Give the same result to all of ``flights`` that have not landed."""
        for key, flight in list(flights):
            if self._flights.get(key) is flight:
                self.land(key, landed)
