"""Choices as pictures: how many times faster than the source each candidate is, by batch, or against its quality."""

from __future__ import annotations

from pathlib import Path

from graphsurgery.compare.choice import Choice
from graphsurgery.compare.figures import COLOURS, import_figure, save_figure
from graphsurgery.compare.timing import describe_batch

WIDTH = 0.8
"""The width of all bars of one candidate together; the distance between two candidates is 1."""
LEAST_ERROR = 1e-8
"""The least 1 - cosine that is drawn."""


def draw_choice(choice: Choice, title: str, path: Path, *, force: bool) -> None:
    """Draw the timed candidates at ``path``, the fastest on top: the ratio of the median times, and a line over the
    middle half of the pairs' ratios.

    Raises SurroundingsError if it cannot be written.
    """
    timed = [one for one in choice.candidates if one.timings]
    batches = [describe_batch(one.texts, one.tokens, one.fill, one.unit) for one in timed[0].timings]
    height = WIDTH / len(batches)
    figure = import_figure()(figsize=(9, 1.5 + 0.25 * len(timed) * (len(batches) + 1)), layout="constrained")
    axes = figure.subplots()
    for place, batch in enumerate(batches):
        middle = [one.timings[place].ratio for one in timed]
        low, high = zip(*(one.timings[place].middle_half for one in timed), strict=True)
        below = [max(one - other, 0.0) for one, other in zip(middle, low, strict=True)]
        above = [max(one - other, 0.0) for one, other in zip(high, middle, strict=True)]
        rows = [row - WIDTH / 2 + (place + 0.5) * height for row in range(len(timed))]
        axes.barh(rows, middle, height, xerr=(below, above), color=COLOURS[place % len(COLOURS)], label=batch)
    names = [one.name + (" (chosen)" if one.name == choice.chosen else "") for one in timed]
    axes.set_yticks(range(len(timed)), names)
    axes.invert_yaxis()  # the fastest on top
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("times faster than the source: by the median times; line: the middle half of the pairs")
    axes.set_title(title, loc="left", fontsize=9)
    axes.legend(fontsize=8)
    save_figure(figure, path, force=force)


def draw_trade_off(choice: Choice, title: str, path: Path, *, force: bool) -> None:
    """Draw the timed candidates at ``path``: 1 - the worst cosine and 1 - the mean against the speed, with their sizes.

    Raises SurroundingsError if it cannot be written.
    """
    figure = import_figure()(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    known = [one for one in choice.candidates if one.timings and one.quality is not None]
    shown = [(one, one.ratio or 0.0, one.quality) for one in known if one.quality is not None]
    for name, place in (("worst text", "worst"), ("first percentile", "first_percentile"), ("mean", "mean")):
        errors = [max(1 - getattr(quality, place), LEAST_ERROR) for _, _, quality in shown]
        axes.scatter([ratio for _, ratio, _ in shown], errors, label=name, color=COLOURS[len(axes.collections)])
    for one, ratio, quality in shown:
        size = f"{one.megabytes:.0f} MiB" if one.megabytes is not None else ""
        label = f"{size}{' (chosen)' if one.name == choice.chosen else ''}"
        axes.annotate(
            label, (ratio, max(1 - quality.worst, LEAST_ERROR)), xytext=(4, 4), textcoords="offset points", fontsize=7
        )
    axes.set_yscale("log")
    axes.set_xlabel("times faster than the source")
    axes.set_ylabel("1 - cosine with the source's vector")
    axes.set_title(title, loc="left", fontsize=9)
    axes.legend(fontsize=8)
    save_figure(figure, path, force=force)
