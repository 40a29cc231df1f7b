"""Reports and interfaces in the terminal, and the pieces that outcomes and inspections are shown with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graphsurgery.consumers import Reading
from graphsurgery.interface import Interface
from graphsurgery.model.model import Model
from graphsurgery.report import Check, Comparison, Report, Verdict
from graphsurgery.snippet import shown

STYLES = {Verdict.PASSED: "bold green", Verdict.FAILED: "bold red", Verdict.NOT_CHECKED: "bold yellow"}
WARNING = "warning: "
SMALLEST_SHARE = 0.001
NOTEWORTHY = 1.5
"""Times the promised tolerance, from which on it is told."""
WIDEST = 1000
"""Columns in which every table fits."""
MANY = 10
"""Times what is allowed, from which on it is told in times and not in percent."""


def title(source: Model, output: Path, *, written: bool) -> Text:
    """From which file to which."""
    name = source.path.name if source.path else "model"
    return Text.assemble((name, "bold"), " -> ", (shown(output), "bold"), "" if written else "  (not written)")


def proof(report: Report | None) -> RenderableType:
    """The part of the output that a proof is, also where there was none."""
    done = Text("left out (--no-verify)", style="yellow") if report is None else report_summary(report)
    return section("Proof", done)


def interface_table(interface: Interface) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for label, values in (("in", interface.inputs), ("out", interface.outputs)):
        for value in values:
            name, _, kind = str(value).partition(": ")
            table.add_row(Text(label, style="dim"), Text(name, style="cyan", overflow="fold"), Text(kind, overflow="fold"))
    return table


def report_summary(report: Report) -> RenderableType:
    """One line per check, then what was observed and what was not checked."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for check in report.checks:
        table.add_row(_verdict(check.verdict), Text(check.name), Text(_figures(check), style="dim", overflow="fold"))
    return Group(table, *_remarks(report))


def report_details(report: Report) -> RenderableType:
    """Every kind of feed of every check."""
    parts: list[RenderableType] = []
    for check in report.checks:
        parts.append(Text.assemble(_verdict(check.verdict), "  ", (check.name, "bold"), "  ", (check.detail, "dim")))
        if check.comparisons:
            parts.append(Padding(_Comparisons(check.comparisons), (0, 0, 1, 2), expand=False))
    return Group(*parts, *_remarks(report))


def consumer_table(readings: Sequence[Reading]) -> RenderableType:
    """Who can read the file and what they have to set; then who cannot, in one line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for reading in readings:
        if reading.reads:
            table.add_row(Text(reading.consumer, overflow="fold"), Text(reading.detail, style="dim", overflow="fold"))
    others = ", ".join(reading.consumer for reading in readings if not reading.reads)
    return Group(table, *([Text(f"not {others}", style="dim")] if others else []))


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    """Names and what they are, side by side."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    return table


def section(title: str, body: RenderableType) -> RenderableType:
    """A titled, indented part of the output."""
    return Group(heading(title), Padding(body, (0, 0, 0, 2), expand=False))


def heading(title: str) -> Text:
    """The title of a part, a line away from what is above."""
    return Text(f"\n{title}", style="bold")


def bullets(lines: Iterable[str]) -> RenderableType:
    """One paragraph each; warnings stand out."""
    return Padding(
        Group(*(Text(line, style="bold yellow" if line.startswith(WARNING) else "") for line in lines)),
        (0, 0, 0, 2),
        expand=False,
    )


def _verdict(verdict: Verdict) -> Text:
    return Text(verdict.value, style=STYLES[verdict])


def _figures(check: Check) -> str:
    if not check.comparisons:
        return check.detail
    cases = sum(one.cases for one in check.comparisons)
    nearest = max(check.comparisons, key=lambda one: one.margin)
    failed = [f"{one.kind} ({one.wrong})" for one in check.comparisons if one.wrong is not None]
    kinds = f"{len(check.comparisons)} kind{'s' if len(check.comparisons) > 1 else ''}"
    worst = f"at worst {nearest.worst:.1e} apart in {nearest.kind!r}, {_of_allowed(nearest.margin)}"
    angles = [one for one in check.comparisons if one.least_cosine is not None and one.cosine is not None]
    if angles:
        least = min(angles, key=lambda one: one.cosine or 0)
        worst = f"cosine at least {least.cosine:.6f} ({least.least_cosine} asked), at worst {nearest.worst:.1e} apart"
    text = f"{cases} cases of {kinds}, {worst}"
    beyond = max(check.comparisons, key=lambda one: one.beyond)
    if beyond.beyond > NOTEWORTHY:
        text += f" (up to {beyond.beyond:.0f} x the promised tolerance in {beyond.kind!r}: float32 leaves so much open)"
    return text + (f"; failed: {', '.join(failed)}" if failed else "")


@dataclass(frozen=True)
class _Comparisons:
    """As a table, or a paragraph each where the terminal is too narrow for one."""

    comparisons: Sequence[Comparison]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _comparison_table(self.comparisons)
        if Measurement.get(console, options.update(max_width=WIDEST), table).maximum <= options.max_width:
            yield table
            return
        for one in self.comparisons:
            figures = f"{one.kind}: {one.cases} cases, at most {one.worst:.1e} apart, {_of_allowed(one.margin)}"
            cosine = "" if one.cosine is None else f", cosine at least {one.cosine:.7f}"
            yield Text.assemble(_compared(one), "  ", f"{figures}{cosine}", overflow="fold")


def _compared(one: Comparison) -> Text:
    return _verdict(one.verdict) + Text(f" {one.not_finite} NaN/Inf" if one.not_finite else "")


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("feeds", no_wrap=True)
    for name in ("cases", "max diff", "of allowed", "min cosine"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in comparisons:
        cosine = "-" if one.cosine is None else f"{one.cosine:.7f}"
        table.add_row(one.kind, str(one.cases), f"{one.worst:.1e}", _share(one.margin), cosine, _compared(one))
    return table


def _share(margin: float) -> str:
    if 0 < margin < SMALLEST_SHARE:
        return f"<{SMALLEST_SHARE:.1%}"
    return f"{margin:.1%}" if margin < MANY else f"{margin:,.0f} times"


def _of_allowed(margin: float) -> str:
    return f"{_share(margin)} {'of ' if margin < MANY else ''}what is allowed"


def _remarks(report: Report) -> list[RenderableType]:
    observed = [Text(f"observed: {line}") for line in report.observations]
    return [*observed, *(Text(f"not checked: {line}", style="yellow") for line in report.not_checked)]
