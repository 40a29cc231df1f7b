"""Limit the time and the size of a request's head, because uvicorn limits neither."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 65_536
"""The largest number of bytes of a request's head: its address and its headers."""
LINGER = 1.0
"""Seconds after which a refused connection is closed, unless its client closes it before."""
LATE, TOO_LARGE = (408, b"Request Timeout"), (431, b"Request Header Fields Too Large")


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads have to arrive within `seconds`, with at most `MOST_HEAD` bytes."""

    seconds = 10.0
    _timer: asyncio.TimerHandle | None = None
    _is_in_head = _is_refused = False
    _arrived = 0
    """The bytes of a head that has not arrived completely."""
    _size = 0
    """The bytes of the head that are parsed so far."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._arrived = self._arrived + len(data) if self._is_in_head else 0
        if self._arrived > MOST_HEAD:
            self._refuse(*TOO_LARGE)
        elif self._is_in_head and self._timer is None:
            self._set_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._size = True, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._size += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._drop_timer()
        routes = self.app
        if self._size > MOST_HEAD:
            self.app = _refuse_head
        super().on_headers_complete()
        self.app = routes

    def _set_timer(self) -> None:
        self._drop_timer()
        self._timer = self.loop.call_later(self.seconds, self._end_late)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:  # the request before is being answered
            self._set_timer()
        elif self._is_in_head:
            self._refuse(*LATE)
        else:
            self.transport.close()

    def _refuse(self, status: int, reason: bytes) -> None:
        """Send the reason, unless an answer is on its way, and close the connection a little later.

        If it were closed at once, a client that still sends would lose the answer.
        """
        self._is_refused = True
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(b"HTTP/1.1 %d %s\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (status, reason))
            self.transport.write_eof()
        self._drop_timer()
        self._timer = self.loop.call_later(LINGER, self.transport.close)


def make_protocol(seconds: float) -> type[BoundedProtocol]:
    """Return a protocol class whose heads have to arrive within ``seconds``."""
    return type("Protocol", (BoundedProtocol,), {"seconds": seconds})


async def _refuse_head(_: Any, __: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": TOO_LARGE[0], "headers": headers})
    await send({"type": "http.response.body", "body": b""})
