"""Search for the fastest quantised file that keeps a budget of quality.

Every group of products (those of one value) has one of three levels: integers with one calibrated range for all texts, integers
with one scale a row, float32. Each level is slower and more exact than the one before. How much each group costs in quality is
measured on calibration texts, one group at a time; how much it costs in time follows from the times of the whole file at each
level. Starting from the fastest file, the search raises one group after the other to a more exact level, first those that gain
the most quality for their time. It takes the first file on this way that keeps the budget on the texts to judge by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from graphsurgery.compare.choice import Candidate, Choice
from graphsurgery.compare.quality import Quality
from graphsurgery.compare.timing import Timing, race
from graphsurgery.compare.tolerance import NO_LIMITS, Limits
from graphsurgery.errors import NothingToOptimizeError, VerificationFailed
from graphsurgery.model.model import Model
from graphsurgery.optimizer.search import Search
from graphsurgery.outcome import Outcome, explain_failure
from graphsurgery.progress import count_parts
from graphsurgery.proof.quantized import QuantizedJudge
from graphsurgery.proof.relation import Relation
from graphsurgery.report import Report, Verdict
from graphsurgery.rewrites.apply import apply_rewrite
from graphsurgery.rewrites.head_parts import Parts, split_head
from graphsurgery.rewrites.quantize.products import GroupSize
from graphsurgery.rewrites.quantize_encoder import INT8, Quantize, list_groups
from graphsurgery.rewrites.rewrite import Context
from graphsurgery.runtime.feeds import generate_text_feeds
from graphsurgery.runtime.session import open_session

STATIC, BY_ROW, FLOAT = LEVELS = ("static", "by row", "float32")
"""The levels of a group, the fastest first."""
BATCH = 32
"""The texts that are timed together."""
SECONDS = 2.0
"""How long the files are timed, in seconds."""
TABLES = "embedding tables"
"""The tables are a group of their own: rows of integers, or float32."""
COST_OF_TABLES = 0.02
"""Tables in float32 take no more time, but they are most of a small model's bytes. Their size is counted as this share of the
file's time."""
LEAST_COST = 1e-9
"""The least seconds that a step costs, so that gains can be divided by it."""
Levels = Mapping[str, str]
"""The level of each group, by the name of its value."""


@dataclass(frozen=True)
class Tried:
    """A quantised file that was judged."""

    name: str
    rewrite: Quantize
    model: Model
    quality: Quality
    why_not: str
    """Why it is not good enough; empty if it is."""


@dataclass
class QuantizeSearch:
    """A search over the levels of the groups of one source. The chosen file is proven and written as `Search` does it."""

    search: Search
    base: Quantize
    """The parameters that stay: the target, the texts, the budget."""
    judge: QuantizedJudge
    calibration: QuantizedJudge
    """Judges by calibration texts, on which the sensitivity of groups is measured."""
    time: bool = True
    tried: list[Tried] = field(default_factory=list)

    @cached_property
    def groups(self) -> tuple[GroupSize, ...]:
        return list_groups(self.parts.encoder)

    @cached_property
    def parts(self) -> Parts:
        return split_head(self.search.source)

    def run(self) -> Outcome:
        """Return the outcome of the fastest file within the budget.

        Raises VerificationFailed if no file is, with those that were tried; NothingToOptimizeError if nothing can be quantised.
        """
        if not self.groups:
            raise NothingToOptimizeError("no product of this encoder can be computed in integers", "use the file as it is")
        way = list(self._make_way()) if self.base.scheme == INT8 else [self._fix_levels()]
        found = self._find_first(way) or self._find_first([_replace_static(one) for one in way if STATIC in one.values()])
        choice = Choice(self._make_candidates(), "" if found is None else found.name)
        if found is None:
            best = max(self.tried, key=lambda one: one.quality.worst)
            what = f"no quantised file keeps the cosine {self.base.min_cosine:g} on every text"
            what = f"{what}; the best, {best.name}: {best.quality}"
            outcome = replace(self.search.describe_source(), choice=choice)
            raise VerificationFailed(what, "ask for a smaller --min-cosine, or calibrate on texts like yours", outcome)
        return replace(self.search.run([found.rewrite]), choice=choice)

    def _fix_levels(self) -> Levels:
        """Return the levels of a scheme that has one for all groups."""
        return {one.name: BY_ROW for one in self.groups} | {TABLES: BY_ROW}

    def _make_way(self) -> Iterator[Levels]:
        """Yield the levels of all groups, from all static to all but one float32: each raises one group of those before."""
        current = dict.fromkeys([one.name for one in self.groups], STATIC) | {TABLES: BY_ROW}
        counted = count_parts(current, len(current), self.search.progress, "measuring how sensitive each product is")
        errors = {name: dict(self._measure_errors(name)) for name in counted}
        costs = self._estimate_costs()
        while True:
            yield dict(current)
            options = [
                (self._rate(errors[name], costs[name], level, above), name, above)
                for name, level in current.items() for above in LEVELS[LEVELS.index(level) + 1 :]
            ]  # fmt: skip
            _, name, above = max(options)
            current[name] = above
            if set(current.values()) == {FLOAT}:
                return

    @staticmethod
    def _rate(errors: Mapping[str, float], costs: Mapping[str, float], level: str, above: str) -> float:
        """Return how much quality a group gains for each second that it costs to raise it."""
        return (errors[level] - errors[above]) / max(costs[above] - costs[level], LEAST_COST)

    def _measure_errors(self, name: str) -> Iterator[tuple[str, float]]:
        """Yield the mean of 1 - cosine if the group ``name`` alone is quantised, at each level."""
        others = dict.fromkeys([one.name for one in self.groups], FLOAT)
        for level in (STATIC, BY_ROW) if name != TABLES else (BY_ROW,):
            _, model = self._apply(others | {name: level})
            yield level, 1 - self.calibration.measure(model).mean
        yield FLOAT, 0.0

    def _estimate_costs(self) -> dict[str, dict[str, float]]:
        """Return the seconds that each group takes more than static, by level.

        The source and the files with all groups at one level are measured. The difference is divided among the groups: for
        float32 by the operations of their products, for scales of rows by the numbers that they read and write.
        """
        names = [one.name for one in self.groups]
        self.search.progress("timing the levels")
        models = [self._apply(dict.fromkeys(names, level))[1] for level in (STATIC, BY_ROW)]
        rounds = self._race([*models, self.search.source])
        static, by_row, full = (min(times) for times in zip(*rounds, strict=True))
        operations, numbers = sum(one.operations for one in self.groups), sum(one.numbers for one in self.groups)
        costs = {
            one.name: {
                STATIC: 0.0,
                BY_ROW: max(by_row - static, 0.0) * one.numbers / numbers,
                FLOAT: max(full - static, 0.0) * one.operations / operations,
            }
            for one in self.groups
        }
        return costs | {TABLES: {BY_ROW: 0.0, FLOAT: COST_OF_TABLES * static}}

    def _race(self, models: Sequence[Model]) -> list[list[float]]:
        """Return the seconds that each model takes in each round, on texts of all lengths."""
        texts = self.judge.spread(BATCH)
        feeds = generate_text_feeds(self.judge.generator, texts)
        sessions = [open_session(one) for one in models]

        def make_run(place: int) -> object:
            return lambda: [sessions[place].run(feed) for feed in feeds]

        return race([make_run(place) for place in range(len(sessions))], SECONDS)  # type: ignore[misc]

    def _find_first(self, way: Sequence[Levels]) -> Tried | None:
        """Return the first file on the ``way`` that keeps the budget, by halving the way. None if not even the last does."""
        if not way:
            return None
        first = self._judge(way[0])
        if not first.why_not or len(way) == 1:
            return first if not first.why_not else None
        best = self._judge(way[-1])
        if best.why_not:
            return None
        low, high = 0, len(way) - 1
        while high - low > 1:
            middle = (low + high) // 2
            one = self._judge(way[middle])
            low, high, best = (middle, high, best) if one.why_not else (low, middle, one)
        return best

    def _judge(self, levels: Levels) -> Tried:
        name = _name_levels(levels) if self.base.scheme == INT8 else self.base.scheme
        self.search.progress(f"judging {name}")
        rewrite, model = self._apply(levels)
        quality = self.judge.measure(model)
        keeps = quality.worst >= self.base.min_cosine and not quality.not_finite
        why_not = self._explain_drawn(rewrite, model) if keeps else f"a cosine of {quality.worst:.4f}"
        self.tried.append(Tried(name, rewrite, model, quality, why_not))
        return self.tried[-1]

    def _explain_drawn(self, rewrite: Quantize, model: Model) -> str:
        """Say how ``model`` is off on drawn feeds, by which the written file will be proven; empty if it is not."""
        if not self.search.verify:
            return ""
        same = self.search.proof.same
        relation = Relation.of(self.search.source, model, NO_LIMITS)
        checks, _, _ = same.make_checks(model, relation, Limits(min_cosine=rewrite.least_cosine))
        report = Report(tuple(checks))
        return f"on drawn feeds, {explain_failure(report)}" if report.verdict is Verdict.FAILED else ""

    def _apply(self, levels: Levels) -> tuple[Quantize, Model]:
        """Return the rewrite with these ``levels``, in which tables are float32 if they have none, and the model it makes."""
        chosen = {level: tuple(name for name, one in levels.items() if one == level and name != TABLES) for level in LEVELS}
        tables = levels.get(TABLES, FLOAT) != FLOAT
        rewrite = replace(self.base, static=chosen[STATIC], float32=chosen[FLOAT], tables=tables)
        return rewrite, apply_rewrite(rewrite, self.search.source, Context(self.search.proof.feeds), self.parts).after

    def _make_candidates(self) -> tuple[Candidate, ...]:
        """Return what was tried, timed beside the source unless that is not wanted, the fastest first."""
        self.search.progress(f"timing {len(self.tried)} candidates")
        rounds = self._race([self.search.source, *(one.model for one in self.tried)]) if self.time else []
        texts = self.judge.spread(BATCH)
        shape = (len(texts.ids), texts.ids.shape[1])
        found = []
        for place, one in enumerate(self.tried, 1):
            pairs = tuple((times[0], times[place]) for times in rounds)
            timings = (Timing(*shape, pairs, round(float(texts.mask.mean()), 2)),) if pairs else ()
            size = one.model.weight_bytes / 2**20
            found.append(Candidate(one.name, timings, one.why_not, one.quality, size))
        return tuple(sorted(found, key=lambda one: -(one.ratio or 0)))


def _replace_static(levels: Levels) -> Levels:
    """Return ``levels`` without calibrated ranges, which other texts may leave: with scales by row in their place."""
    return {name: BY_ROW if level == STATIC else level for name, level in levels.items()}


def _name_levels(levels: Levels) -> str:
    """Return how many groups are at each level, and that tables are in integers."""
    counts = {level: sum(one == level for name, one in levels.items() if name != TABLES) for level in LEVELS}
    tables = ["tables"] if levels[TABLES] != FLOAT else []
    return ", ".join([*(f"{count} {level}" for level, count in counts.items() if count), *tables])
