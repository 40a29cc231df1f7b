"""The result of a benchmark in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsurgery.benchmarking.results import FASTER, SLOWER, Benchmark, Contest, Measurement
from graphsurgery.cli.render import TableOrLines, make_table, render_section
from graphsurgery.compare.timing import BUSY, COLUMNS

STYLES = {FASTER: "green", SLOWER: "bold yellow", BUSY: "yellow"}
Row = tuple[Contest, Measurement]


def render_benchmark(result: Benchmark) -> RenderableType:
    """Return a table with a row for each measurement, and how it was measured."""
    rows = [(contest, one) for contest in result.contests for one in contest.measurements]
    only = result.contests[0].title if len(result.contests) == 1 else "Batches of equal texts"
    table = TableOrLines(_render_table(result, rows), [_describe_row(*row) for row in rows])
    parts: list[RenderableType] = [render_section(only, table)]
    if any(one.verdict == BUSY for _, one in rows):
        parts.append(Text(f"\n{BUSY}, so that rounds disagree by more than the difference", style=STYLES[BUSY]))
    parts.append(Text(f"\n{result.describe()}", style="dim"))
    if result.plot is not None:
        parts.append(Text.assemble("plot: ", (result.plot, "bold")))
    return Group(*parts)


def _render_table(result: Benchmark, rows: Sequence[Row]) -> Table:
    has_strategies = rows[0][1].strategy is not None
    names = ["model", "texts together"] if has_strategies else ["batch", "model"]
    table = make_table(
        names, [name for name, _ in _list_figures(rows[0][1])], "speed" if len(rows) > len(result.contests) else ""
    )
    for contest, one in rows:
        cells = (one.model, one.strategy or "") if has_strategies else (contest.title, one.model)
        table.add_row(*map(Text, (*cells, *(figure for _, figure in _list_figures(one)))), _render_speed(contest, one))
    return table


def _describe_row(contest: Contest, one: Measurement) -> Text:
    name = f"{one.model}, {one.strategy or contest.title}"
    figures = ", ".join(f"{called} {figure}" for called, figure in _list_figures(one))
    return Text.assemble((name, "bold"), f": {figures}  ", _render_speed(contest, one))


def _list_figures(one: Measurement) -> list[tuple[str, str]]:
    """Return the figures with their names: texts and tokens in a second, clips and frames, or pictures alone."""
    memory = "-"
    if one.memory is not None:
        memory = f"{one.memory.peak / 1e6:,.0f} ({max(one.memory.peak - one.memory.loaded, 0) / 1e6:,.0f})"
    half, most = map(_format_time, one.latency)
    rows, columns = (f"{number:,.0f}" for number in one.throughput)
    unit = one.timing.unit
    each = [(f"{COLUMNS[unit]}/s", columns)] if unit in COLUMNS else []
    return [("p50 ms", half), ("p95 ms", most), (f"{unit}s/s", rows), *each, ("peak MB (in runs)", memory)]


def _format_time(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _render_speed(contest: Contest, one: Measurement) -> Text:
    """Show how many times faster this is than the first contender, and the middle half of the rounds."""
    if one is contest.measurements[0]:
        return Text("1" if len(contest.measurements) > 1 else "")
    low, high = one.timing.middle_half
    return Text(
        f"{one.timing.ratio:.2f}x ({low:.2f} to {high:.2f}) {one.verdict.partition(':')[0]}", style=STYLES.get(one.verdict, "")
    )
