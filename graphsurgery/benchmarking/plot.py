"""The result of a benchmark as a picture: throughput and latency of every contender, one bar each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphsurgery.benchmarking.results import Benchmark, Contest, Measurement
from graphsurgery.compare.figures import COLOURS, import_figure, save_figure


def draw_plot(result: Benchmark, path: Path, *, force: bool) -> None:
    """Draw ``result`` at ``path``. Raises SurroundingsError if it cannot be written."""
    save_figure(_make_figure(result), path, force=force)


def _make_figure(result: Benchmark) -> Any:
    """Return a figure with a row of two diagrams for each contest: throughput, and latency (p50, and a line to p95)."""
    bars = [len(one.measurements) for one in result.contests]
    figure = import_figure()(figsize=(11, 1 + sum(0.8 + 0.32 * count for count in bars)), layout="constrained")
    rows = figure.subplots(len(bars), 2, squeeze=False, gridspec_kw={"height_ratios": [count + 2 for count in bars]})
    models = list(dict.fromkeys(one.model for contest in result.contests for one in contest.measurements))
    for (throughput, latency), contest in zip(rows, result.contests, strict=True):
        _draw_contest(throughput, latency, contest, models)
    figure.suptitle(result.describe(), fontsize=9)
    return figure


def _draw_contest(throughput: Any, latency: Any, contest: Contest, models: Sequence[str]) -> None:
    measured = contest.measurements
    labels, places = [_label(one) for one in measured], range(len(measured))
    colours = [COLOURS[models.index(one.model) % len(COLOURS)] for one in measured]
    throughput.barh(places, [one.throughput[0] for one in measured], color=colours, tick_label=labels)
    throughput.set_xlabel("texts per second")
    p50, p95 = zip(*(one.latency for one in measured), strict=True)
    latency.barh(places, p50, color=colours, xerr=([0] * len(p50), [high - low for low, high in zip(p50, p95, strict=True)]))
    latency.set_yticks([])
    latency.set_xlabel("milliseconds: p50, line to p95")
    for axes in (throughput, latency):
        axes.invert_yaxis()  # the first contender on top
    throughput.set_title(contest.title, loc="left", fontsize=9)


def _label(one: Measurement) -> str:
    return one.model if one.strategy is None else f"{one.model}, {one.strategy}"
