"""The process of a service: it listens, warms up, and on SIGTERM answers what is in flight before it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import uvicorn

from graphsurgery.serving.asgi import make_application
from graphsurgery.serving.connections import make_protocol
from graphsurgery.serving.logs import logger
from graphsurgery.serving.settings import ServeSettings

ENDED, UNANSWERED, DIED = 0, 1, 3
"""How the process ends: all requests were answered; some were not, within `drain` or because of a second signal; the engine or
the warm-up failed, so that a supervisor should start it again."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
IDLE = 5
"""An idle connection is kept for so many seconds."""
SWITCH = 0.0005
"""The seconds for which a thread may keep Python's interpreter while another waits for it. Python's default is ten times that:
so long the engine would wait for a busy event loop after each run, and the model would stand still."""
LAST = 2.0
"""The engine has so many seconds to end when everything is answered."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `Process`: uvicorn would raise them again at its end, and the exit code would be theirs."""
        yield


class Process:
    """A service, its HTTP server, and what ends them."""

    def __init__(self, folder: Path, settings: ServeSettings, listener: socket.socket) -> None:
        self.folder, self.settings, self.listener = folder, settings, listener
        self.code, self.unanswered = ENDED, 0
        host, port = listener.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.service, application = make_application(folder, settings)
        self.service.on_death = self._end_dead
        config = uvicorn.Config(
            application, http=make_protocol(settings.read_timeout), loop="asyncio", ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False, timeout_keep_alive=IDLE,
            limit_concurrency=settings.max_connections, timeout_graceful_shutdown=settings.drain,  # type: ignore[arg-type]
        )  # fmt: skip
        self.server = _Server(config)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        with _handle_signals(lambda: loop.call_soon_threadsafe(self._end)), _switch_fast():
            logger.info("listening at %s, warming up", self.address)
            warming = asyncio.create_task(self._warm_up())
            await self.server.serve(sockets=[self.listener])
            warming.cancel()
            self.unanswered = self.service.inside
            if not await self.service.stop(LAST) or self.unanswered:
                logger.warning("ended with %d inputs unanswered", self.unanswered)
                self.code = self.code or UNANSWERED
            else:
                logger.info("ended")
        if self.code and self.service.is_running:  # a run hangs, and the interpreter would wait for it
            self._exit(self.code)
        return self.code

    def _exit(self, code: int) -> NoReturn:
        logger.warning("ended at once with %d inputs unanswered", self.service.inside)
        sys.stderr.flush()
        os._exit(code)

    async def _warm_up(self) -> None:
        try:
            await self.service.start()
        except Exception as error:
            logger.exception("the model cannot run")
            self._end_dead(error)
            return
        cache = self.settings.cache.rpartition("@")[2]  # without a password
        for kind, facts in self.service.facts.items():
            logger.info(
                "serving %s inputs of %s: %d dims, %s, runs of up to %d positions, cache: %s", kind, self.folder, facts.dims,
                next(iter(facts.providers), "no provider"), self.service.towers[kind].budget, cache,
            )  # fmt: skip
        logger.info("ready at %s", self.address)

    def _end(self) -> None:
        """End after what is in flight; at once if this was asked before."""
        if self.server.should_exit:
            self._exit(UNANSWERED)
        logger.info("ending: what is in flight is answered within %g seconds", self.settings.drain)
        self.service.drain()
        self.server.should_exit = True

    def _end_dead(self, error: BaseException) -> None:
        logger.error("the engine has failed, and the service ends: %s: %s", type(error).__name__, error)
        self.code = DIED
        self.server.should_exit = True


@contextmanager
def _switch_fast() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def _handle_signals(end: Callable[[], object]) -> Iterator[None]:
    def handle(_: int, __: FrameType | None) -> None:
        end()

    before = {one: signal.signal(one, handle) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
