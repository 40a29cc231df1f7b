"""The race of a benchmark: the memory of each contender, then all of them in turns on the same work."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graphsurgery.benchmarking.results import Contest, Measurement
from graphsurgery.benchmarking.work import PLANNED, Work, describe_strategy, draw_work, split_texts
from graphsurgery.compare.budget import measure_budget
from graphsurgery.compare.timing import TEXT, Timing, describe_batch, race
from graphsurgery.model.model import Model
from graphsurgery.model.saving import save
from graphsurgery.progress import Progress, count_parts
from graphsurgery.proof.source_feeds import make_feed_generator, require_texts
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.memory import measure_memory
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.snippet import shorten_path


@dataclass
class Contender:
    """A model of the benchmark: what it is called, the file that has it, and its session once it is open."""

    name: str
    model: Model
    path: Path
    generator: FeedGenerator
    session: Session | None = None


def make_contender(model: Model, place: int, folder: Path) -> Contender:
    """Return a contender. A model that is in no file is saved in ``folder``, for the process that measures its memory."""
    model.require_data("running the model")
    generator = make_feed_generator(model)
    if model.path is not None and model.is_as_loaded:
        return Contender(model.path.name, model, model.path, generator)
    path = folder / f"{place}" / "model.onnx"
    path.parent.mkdir()
    save(model, path)
    return Contender(f"model {place + 1}", model, path, generator)


def name_apart(contenders: Sequence[Contender]) -> None:
    """Name contenders by their paths if the names of their files are not enough, and count them if paths are not."""
    for one in _list_namesakes(contenders):
        one.name = shorten_path(one.path)
    for place, one in enumerate(_list_namesakes(contenders), 1):
        one.name = f"{one.name} ({place})"


def _list_namesakes(contenders: Sequence[Contender]) -> list[Contender]:
    counts = Counter(one.name for one in contenders)
    return [one for one in contenders if counts[one.name] > 1]


@dataclass
class _Client:
    """Runs a contender's work when it is called, and keeps the seconds of each run."""

    session: Session
    work: Work
    rounds: list[tuple[float, ...]] = field(default_factory=list)

    def __call__(self) -> None:
        self.rounds.append(tuple(self._time_runs()))

    def _time_runs(self) -> Iterator[float]:
        for feed in self.work.feeds:
            start = time.perf_counter()
            self.session.run(feed)
            yield time.perf_counter() - start


@dataclass
class Racing:
    """A benchmark in progress."""

    contenders: Sequence[Contender]
    threads: int
    seconds: float
    progress: Progress
    budget: int | None = None
    has_measured_budget: bool = False

    def run_texts(self, path: str | os.PathLike[str], strategies: Sequence[str], budget: int | None, longest: int) -> Contest:
        """Measure the texts of a file, with each strategy and each model."""
        first = self.contenders[0]
        advice = "leave out --texts: batches are drawn then"
        encoded = [require_texts(one.model, first.model, one.generator, path, longest, advice) for one in self.contenders]
        if set(strategies) & set(PLANNED):
            self.budget, self.has_measured_budget = budget, budget is None
            if budget is None:
                self.progress("measuring the budget of a run")
                self.budget = measure_budget(self._open(first).run_all, first.generator)
        works = [
            (one, describe_strategy(strategy, self.budget), split_texts(one.generator, texts, strategy, self.budget or 1))
            for one, texts in zip(self.contenders, encoded, strict=True) for strategy in strategies
        ]  # fmt: skip
        lengths = encoded[0].mask.sum(axis=1)
        title = f"{len(lengths)} texts of {os.fspath(path)}, {lengths.min()} to {lengths.max()} tokens"
        return self._race(title, len(lengths), int(lengths.max()), works)

    def run_shape(self, texts: int, tokens: int) -> Contest:
        """Measure one batch of equal texts, with each model."""
        works = [(one, None, draw_work(one.generator, texts, tokens)) for one in self.contenders]
        unit = self.contenders[0].generator.unit
        return self._race(describe_batch(texts, tokens, 1.0, unit), texts, tokens, works, unit)

    def _race(
        self, title: str, texts: int, tokens: int, works: Sequence[tuple[Contender, str | None, Work]], unit: str = TEXT
    ) -> Contest:
        """Measure the memory of each work, then run all of them in turns."""
        counted = count_parts(works, len(works), self.progress, f"memory: {title}")
        memories = [measure_memory(one.path, work.feeds, self.threads) for one, _, work in counted]
        clients = [_Client(self._open(one), work) for one, _, work in works]
        self.progress(f"timing: {title}")
        rounds = race(clients, self.seconds)
        measurements = (
            Measurement(
                one.name, strategy,
                Timing(texts, tokens, tuple((seconds[0], seconds[place]) for seconds in rounds), unit=unit),
                tuple(client.rounds[1:]), work.texts, work.tokens, memory,
            )
            for place, ((one, strategy, work), client, memory) in enumerate(zip(works, clients, memories, strict=True))
        )  # fmt: skip
        return Contest(title, tuple(measurements))

    def _open(self, one: Contender) -> Session:
        if one.session is None:
            self.progress(f"loading {one.name}")
            one.session = open_session(one.model, threads=self.threads)
        return one.session
