"""A circuit breaker: after several failures in a row, nothing is asked for a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Says whether a server that may be down should be asked.

    After ``limit`` failures one behind the other it answers no for ``pause`` seconds. Then a single caller may try: a success
    ends the pause, and anything else starts the next one, a caller included that never says what became of its try.
    """

    def __init__(self, limit: int = 3, pause: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.pause, self.clock = limit, pause, clock
        self._failures = 0
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there have been so many failures that calls are left out."""
        return self._failures >= self.limit

    def allows(self) -> bool:
        """Whether to ask now. A yes after a pause is given once; others wait until the result of this try is known."""
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
