"""The figures of a benchmark: latency, throughput and memory of each contender, and how it compares with the first one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np

from graphsurgery.compare.timing import BUSY, Timing
from graphsurgery.runtime.memory import Memory
from graphsurgery.shown import Shown

FASTER, SLOWER, EQUAL = "faster", "slower", "no clear difference"


@dataclass(frozen=True)
class Measurement:
    """The time and the memory that one model took for its work."""

    model: str
    strategy: str | None
    """How the client put the texts of a file into batches; None for a batch of one size."""
    timing: Timing
    """Pairs (seconds of the first contender, seconds of this one) for the whole work."""
    seconds: tuple[tuple[float, ...], ...]
    """The seconds of each run, in each round."""
    texts: tuple[int, ...]
    """The number of texts in each run."""
    tokens: int
    """The tokens of all texts, without padding."""
    memory: Memory | None
    """The memory it took. None if the system does not tell."""

    @cached_property
    def latency(self) -> tuple[float, float]:
        """Milliseconds from the start to the end of the run that a text was in: median and 95th percentile over all texts."""
        each = np.concatenate([np.repeat(one, self.texts) for one in self.seconds])
        p50, p95 = np.percentile(each, (50, 95)) * 1000
        return float(p50), float(p95)

    @property
    def throughput(self) -> tuple[float, float]:
        """Texts and tokens in a second, in the median round."""
        seconds = median(sum(one) for one in self.seconds)
        return sum(self.texts) / seconds, self.tokens / seconds

    @property
    def verdict(self) -> str:
        """Whether this is faster than the first contender, as far as the rounds tell."""
        if self.timing.helped is not None:
            return FASTER if self.timing.helped else SLOWER
        return BUSY if self.timing.is_unjudged else EQUAL

    def to_json(self) -> dict[str, Any]:
        p50, p95 = self.latency
        texts, tokens = self.throughput
        return {
            "model": self.model, "strategy": self.strategy, "p50_ms": p50, "p95_ms": p95, "texts_per_second": texts,
            "tokens_per_second": tokens, "runs": len(self.texts), "rounds": len(self.seconds),
            "loaded_bytes": self.memory and self.memory.loaded, "peak_bytes": self.memory and self.memory.peak,
            "ratio": self.timing.ratio, "middle_half": list(self.timing.middle_half), "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Contest:
    """The contenders at one kind of work, run in turns. The others are compared with the first one."""

    title: str
    measurements: tuple[Measurement, ...]

    def to_json(self) -> dict[str, Any]:
        return {"work": self.title, "measurements": [one.to_json() for one in self.measurements]}


@dataclass(frozen=True)
class Benchmark(Shown):
    """The result of `bench`."""

    contests: tuple[Contest, ...]
    """The measurements of all models, one contest for each kind of work."""
    threads: int
    """The number of threads of each session; 0 if ONNX Runtime chose."""
    processors: int
    """The number of processors of the machine."""
    onnxruntime: str
    """The version of ONNX Runtime."""
    budget: int | None
    """The budget of the sorted strategies, if there are any."""
    measured_budget: bool
    """Whether `bench` measured this budget."""
    plot: str | None
    """The path of the plot, if one was drawn."""
    warnings: tuple[str, ...] = ()
    """Warnings about the files."""

    def __repr__(self) -> str:
        """Return one line: how many measurements there are, and of what. `to_json` gives everything."""
        works = ", ".join(one.title for one in self.contests)
        return f"<{type(self).__name__} of {sum(len(one.measurements) for one in self.contests)} measurements: {works}>"

    def describe(self) -> str:
        """Return a sentence on how the benchmark was measured."""
        threads = f"{self.threads} threads" if self.threads else "as many threads as ONNX Runtime chooses"
        budget = ""
        if self.budget is not None:
            budget = f"; budget of {self.budget}, {'measured here' if self.measured_budget else 'as asked for'}"
        return f"ONNX Runtime {self.onnxruntime} on {self.processors} processors, {threads}{budget}"

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as JSON-ready data."""
        return {
            "onnxruntime": self.onnxruntime, "processors": self.processors, "threads": self.threads, "budget": self.budget,
            "budget_measured": self.measured_budget, "plot": self.plot, "works": [one.to_json() for one in self.contests],
            "warnings": list(self.warnings),
        }  # fmt: skip
