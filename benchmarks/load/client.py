"""A closed-loop client: so many connections, each of which sends the next request when it has the answer to the last one.

It compares every vector: its JSON first, and its numbers if that differs. HTTP is written by hand here, because a client of a
library would take more of the two processors than the service does.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

AGREES = 1e-5
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *([\d.]+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
REFUSED = 429
PATIENCE = 120.0
"""A request without an answer for so many seconds is lost."""


@dataclass(frozen=True)
class Request:
    """A request, ready to send, and the vectors that have to come back: None if they are not compared."""

    content: bytes
    texts: int
    expected: np.ndarray | None
    expected_body: bytes = b""
    """What `graphsurgery serve` answers if every bit is as expected."""


@dataclass
class Load:
    """What became of requests. Rates and latencies are of answers within the time that was measured; the rest counts all."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    texts: int = 0
    sent: int = 0
    answered: int = 0
    refused: int = 0
    told: int = 0
    """How many of the refused were told when to come again."""
    other: int = 0
    """Answers with another status."""
    lost: int = 0
    """Requests without an answer."""
    wrong: int = 0
    """Answers with a vector that is further away than `AGREES`."""
    inexact: int = 0
    """Answers that are not the expected bits."""

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds

    @property
    def text_rate(self) -> float:
        return self.texts / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency, in milliseconds, that this share of the answers has at most."""
        return float(np.percentile(self.latencies, share)) * 1000 if self.latencies else float("nan")


def make_request(texts: Sequence[str], expected: np.ndarray | None) -> Request:
    """Return a request for the vectors of ``texts``, in the form of `POST /embed`."""
    body = orjson.dumps({"inputs": texts[0] if len(texts) == 1 else list(texts)})
    head = f"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    expected_body = b"" if expected is None else orjson.dumps(expected, option=orjson.OPT_SERIALIZE_NUMPY)
    return Request(head.encode() + body, len(texts), expected, expected_body)


def run_load(port: int, requests: Sequence[Request], connections: int, seconds: float, warm_up: float = 1.0) -> Load:
    """Keep ``connections`` busy with ``requests``, one after the other, and measure ``seconds`` after a warm-up.

    A client that is refused waits as long as it is told, or half a second if it is told nothing.
    """
    return asyncio.run(_Loop(port, requests, warm_up, seconds).run(connections))


class _Loop:
    def __init__(self, port: int, requests: Sequence[Request], warm_up: float, seconds: float) -> None:
        self.port, self.load = port, Load(seconds=seconds)
        self._next = itertools.cycle(requests)
        self._start = time.perf_counter() + warm_up
        self._end = self._start + seconds

    async def run(self, connections: int) -> Load:
        await asyncio.gather(*(self._keep_busy() for _ in range(connections)))
        return self.load

    async def _keep_busy(self) -> None:
        """One client: it opens a new connection whenever the last one was closed."""
        loop = asyncio.get_running_loop()
        while time.perf_counter() < self._end:
            try:
                transport, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            is_open = True
            while is_open and time.perf_counter() < self._end:
                is_open = await self._ask(connection)
            transport.close()

    async def _ask(self, connection: _Connection) -> bool:
        """Send one request and judge its answer. Return whether the connection can be used again."""
        request = next(self._next)
        self.load.sent += 1
        start = time.perf_counter()
        try:
            head, body = await connection.ask(request.content)
        except OSError:
            self.load.lost += 1
            return False
        end = time.perf_counter()
        status = int(head[9:12])
        if status == 200:
            self._judge(request, body)
            if self._start <= end <= self._end:
                self.load.latencies.append(end - start)
                self.load.texts += request.texts
        elif status == REFUSED:
            wait = RETRY_AFTER.search(head)
            self.load.refused += 1
            self.load.told += wait is not None
            await asyncio.sleep(float(wait[1]) if wait else 0.5)
        else:
            self.load.other += 1
        return CLOSES.search(head) is None

    def _judge(self, request: Request, body: bytes) -> None:
        self.load.answered += 1
        if request.expected is None or body == request.expected_body:
            return
        found = np.array(orjson.loads(body), np.float32)
        if found.shape != request.expected.shape or not np.abs(found - request.expected).max() <= AGREES:
            self.load.wrong += 1
        elif not np.array_equal(found, request.expected):
            self.load.inexact += 1


class _Connection(asyncio.Protocol):
    """A connection with one request on its way at most."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._head, self._rest, self._length = b"", b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    async def ask(self, content: bytes) -> tuple[bytes, bytes]:
        """Send a request, and return the head and the body of its answer. Raises OSError if there is none."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError
        loop = asyncio.get_running_loop()
        self._answer, self._head, self._rest = loop.create_future(), b"", b""
        patience = loop.call_later(PATIENCE, self._transport.abort)
        self._transport.write(content)
        try:
            return await self._answer
        finally:
            patience.cancel()

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._head:
            head, end, rest = self._rest.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, self._rest = head + end, rest
            length = LENGTH.search(self._head)
            self._length = int(length[1]) if length else 0
        if len(self._rest) >= self._length and self._answer is not None:
            self._answer.set_result((self._head, self._rest))
            self._answer = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._answer.set_exception(ConnectionError())
