"""How many processors other programs keep busy while something is measured. Linux only: elsewhere the system does not tell."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STATISTICS = Path("/proc/stat")
IDLE = (3, 4, 8, 9)
"""The columns in its first line that do not count: idle, waiting for a disk, and guests, whose time other columns include."""


@dataclass(frozen=True)
class Moment:
    """Seconds up to a moment: of the clock, of work by all programs on all processors, and of work by this program."""

    passed: float
    all: float
    own: float

    @classmethod
    def now(cls) -> Moment | None:
        """Read the clocks. None if the system does not tell."""
        with suppress(OSError, ValueError, AttributeError):
            ticks = STATISTICS.read_text(encoding="ascii").splitlines()[0].split()[1:]
            work = sum(int(one) for place, one in enumerate(ticks) if place not in IDLE)
            own = os.times()
            return cls(time.perf_counter(), work / os.sysconf("SC_CLK_TCK"), sum(own[:4]))
        return None


def count_busy_processors(start: Moment | None, end: Moment | None) -> float | None:
    """Return how many processors other programs kept busy between two moments, on average; None if it is not known."""
    if start is None or end is None or end.passed <= start.passed:
        return None
    return max((end.all - start.all) - (end.own - start.own), 0.0) / (end.passed - start.passed)
