"""A circuit breaker: after several failures in a row, a server is not called for a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Says whether to call a server that may be down.

    After ``limit`` failures in a row, `allows` returns False for ``pause`` seconds. Then one caller may try. If it reports a
    success, calls are allowed again. If it reports a failure, or nothing at all, the next pause follows.
    """

    def __init__(self, limit: int = 3, pause: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.pause, self.clock = limit, pause, clock
        self._failures = 0
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there have been ``limit`` failures in a row, so that no calls are made."""
        return self._failures >= self.limit

    def allows(self) -> bool:
        """Return whether to call now. After a pause, one caller gets True; the others get False until its result is known."""
        if not self.is_open:
            return True
        now = self.clock()
        if now < self._until:
            return False
        self._until = now + self.pause
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self.is_open:
            self._until = self.clock() + self.pause
