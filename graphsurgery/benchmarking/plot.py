"""The result of a benchmark as a picture: throughput and latency of every contender, one bar each."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from graphsurgery.benchmarking.results import Benchmark, Contest, Measurement
from graphsurgery.errors import MissingPackageError, OutputExistsError, RequestError, SurroundingsError
from graphsurgery.model.atomic import make_temporary_name, move_into_place, remove, write_new_file
from graphsurgery.model.model import Model
from graphsurgery.model.staging import translate_system_errors

FORMATS = (".png", ".svg")
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""One for each model, in turn; colour-blind readers can tell them apart (Paul Tol, bright)."""


def check_plot(path: Path, models: Sequence[Model], *, force: bool) -> None:
    """Check that a plot can be drawn at ``path``, before anything is measured.

    Raises RequestError for a file that is neither .png nor .svg, OutputExistsError, SurroundingsError without its folder, and
    MissingPackageError without matplotlib.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path} is no file that a plot can be drawn in", "give --plot a name that ends with .png or .svg")
    if path.exists() and any(model.path is not None and path.samefile(model.path) for model in models):
        raise OutputExistsError(f"{path} is a model, which is never overwritten", "give --plot another name")
    if path.is_dir() or (path.exists() and not force):
        raise OutputExistsError(f"{path} exists", "give --plot another name, or replace the file with --force")
    if not path.parent.is_dir():
        raise SurroundingsError(f"the folder {path.parent} does not exist", "create it first, or give --plot another name")
    import_figure()


def draw_plot(result: Benchmark, path: Path, *, force: bool) -> None:
    """Draw ``result`` at ``path``. Raises SurroundingsError if it cannot be written."""
    save_figure(_make_figure(result), path, force=force)


def save_figure(figure: Any, path: Path, *, force: bool) -> None:
    """Write ``figure`` to ``path``, whole or not at all. Raises SurroundingsError if it cannot be written."""
    picture = BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), bbox_inches="tight")
    with translate_system_errors(path):
        temporary = make_temporary_name(path)
        write_new_file(temporary, [(0, picture.getvalue())], len(picture.getvalue()))
        try:
            move_into_place(temporary, path, force=force)
        except BaseException:
            remove(temporary)
            raise


def import_figure() -> Any:
    """Return matplotlib's class for figures. Raises MissingPackageError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "a plot needs the matplotlib package", "pip install matplotlib, or leave out --plot"
        ) from error
    return Figure


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
