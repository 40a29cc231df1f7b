"""A choice by time: candidates that were timed beside the same source, and the one that was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from graphsurgery.compare.quality import Quality
from graphsurgery.compare.timing import Timing, Timings


@dataclass(frozen=True)
class Candidate:
    """A candidate: a file or a setting that may be faster than the source."""

    name: str
    timings: tuple[Timing, ...] = ()
    """Pairs (source, candidate), by batch. Empty if it was not timed."""
    why_not: str = ""
    """Why it was not timed, or not taken although it is faster."""
    quality: Quality | None = None
    """How near its vectors are to the source's. None for candidates that have to be exact."""
    megabytes: float | None = None
    """Its size in MiB, where sizes differ."""

    @property
    def ratio(self) -> float | None:
        """How many times faster it is than the source: the geometric mean over the batches. None if it was not timed."""
        return geometric_mean(timing.ratio for timing in self.timings) if self.timings else None

    @property
    def is_faster(self) -> bool:
        """Whether it is clearly faster on some batch, and clearly slower on none."""
        return Timings(self.timings).helped is True

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "ratio": self.ratio, "faster": self.is_faster, "why_not": self.why_not or None,
            "batches": [timing.to_json() for timing in self.timings],
            "quality": self.quality.to_json() if self.quality is not None else None, "megabytes": self.megabytes,
        }  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """All candidates, the fastest first, and the name of the one that was chosen."""

    candidates: tuple[Candidate, ...]
    chosen: str

    def __repr__(self) -> str:
        """Return one line. `to_json` gives everything."""
        return f"<{type(self).__name__} of {len(self.candidates)} candidates: {self.chosen}>"

    def to_json(self) -> dict[str, Any]:
        return {"chosen": self.chosen, "candidates": [one.to_json() for one in self.candidates]}
