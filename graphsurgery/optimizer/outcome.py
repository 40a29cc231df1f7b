"""What `optimize` did, and what it did not: a value with renderings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.compare.timing import Timings
from graphsurgery.encoder.architecture import Architecture
from graphsurgery.model.model import Model
from graphsurgery.model.staging import Saved
from graphsurgery.report import Report
from graphsurgery.rewrites.fuse.fusions import FusionReport


@dataclass(frozen=True)
class Optimized:
    """``report`` is None where no proof was asked for, ``fusions`` for --portable, ``timings`` where nothing was timed;
    ``saved`` is None for a dry run and a failed proof."""

    model: Model
    source: Model
    output: Path
    architecture: Architecture | None
    fusions: FusionReport | None
    attempts: tuple[str, ...]
    """What was tried before and found wrong, with what was wrong."""
    notes: tuple[str, ...]
    report: Report | None
    timings: Timings | None
    saved: Saved | None
    loss: dict[str, Any] | None = None
    """Of half precision: how far the vectors are from those in float32."""

    @property
    def is_right(self) -> bool:
        """Whether its proof passed, or none was asked for."""
        return self.report is None or bool(self.report)

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON-ready data."""
        return {
            "source": str(self.source.path) if self.source.path else None,
            "output": str(self.output) if self.saved else None,
            "data": str(self.saved.data) if self.saved and self.saved.data else None,
            "architecture": self.architecture.to_json() if self.architecture is not None else None,
            "fusions": self.fusions.to_json() if self.fusions is not None else None,
            "attempts": list(self.attempts),
            "interface": {"before": self.source.interface.to_json(), "after": self.model.interface.to_json()},
            "notes": list(self.notes),
            "report": self.report.to_json() if self.report is not None else None,
            "timings": self.timings.to_json() if self.timings is not None else None,
            "loss": self.loss,
        }
