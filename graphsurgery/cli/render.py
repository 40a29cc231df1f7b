"""Reports and interfaces in the terminal, and the pieces that show outcomes and inspections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graphsurgery.consumers import Compatibility
from graphsurgery.interface import Interface
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn
from graphsurgery.report import Comparison, Figure, Report, Verdict, describe_share, format_share, summarize_figures

STYLES = {Verdict.PASSED: "bold green", Verdict.FAILED: "bold red", Verdict.NOT_CHECKED: "bold yellow"}
SHOWN_NAMES = {"second opinion": "in onnx's evaluator"}
"""What the terminal calls checks whose names in reports say too little."""
WARNING = "bold yellow"
CONSUMERS = "Programs that read this file as it is"
WIDEST = 1000
"""A terminal width, in columns, that holds every table."""


def render_section(title: str, body: RenderableType) -> RenderableType:
    """Return a titled, indented part of the output."""
    return Group(render_heading(title), Padding(body, (0, 0, 0, 2), expand=False))


def render_heading(title: str) -> Text:
    """Return the title of a part, with an empty line above it."""
    return Text(f"\n{title}", style="bold")


def render_warning(text: str) -> Text:
    """Return a warning as every verb prints it."""
    return Text(f"warning: {text}", style=WARNING)


def render_paragraphs(lines: Iterable[str]) -> RenderableType:
    """Return one paragraph per remark. Warnings stand out."""
    texts = (render_warning(line) if isinstance(line, Warn) else Text(line) for line in lines)
    return Padding(Group(*texts), (0, 0, 0, 2), expand=False)


def render_facts(facts: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    table = _make_grid()
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    return table


def render_interface(interface: Interface) -> Table:
    """Return a table of inputs and outputs with their types."""
    table = _make_grid()
    for label, values in (("in", interface.inputs), ("in, optional", interface.optional), ("out", interface.outputs)):
        for value in values:
            name, _, kind = str(value).partition(": ")
            table.add_row(Text(label, style="dim"), Text(name, style="cyan", overflow="fold"), Text(kind, overflow="fold"))
    return table


def render_consumers(readings: Sequence[Compatibility]) -> RenderableType:
    """Return the programs that can read a file and their settings, then the names of those that cannot."""
    table = _make_grid()
    for reading in readings:
        if reading.reads:
            table.add_row(Text(reading.consumer, overflow="fold"), Text(reading.detail, style="dim", overflow="fold"))
    others = [reading for reading in readings if not reading.reads]
    reasons = {reading.detail for reading in others} if len(others) == len(readings) else set()
    lines = [f"cannot read it: {', '.join(reading.consumer for reading in others)}"] if others else []
    lines += [f"because each of them {reason}" for reason in reasons if len(reasons) == 1]
    return Group(table, *(Text(line, style="dim") for line in lines))


def render_proof(report: Report | None) -> RenderableType:
    """Return the section of the proof: one line per check, then notes and what was not checked."""
    if report is None:
        return render_section("Proof", Text("skipped (--no-verify)", style="yellow"))
    return render_section("Proof", Group(_render_checks(report), *_render_remarks(report)))


def _render_checks(report: Report) -> RenderableType:
    table = _make_grid()
    for check in report.checks:
        summary = Text(summarize_figures(check) or check.detail, style="dim", overflow="fold")
        table.add_row(_render_verdict(check.verdict), Text(_show_name(check.name)), summary)
    return table


def render_details(report: Report) -> RenderableType:
    """Return every check with every kind of feed, then notes and what was not checked."""
    parts: list[RenderableType] = []
    for check in report.checks:
        parts.append(
            Text.assemble(_render_verdict(check.verdict), "  ", (_show_name(check.name), "bold"), "  ", (check.detail, "dim"))
        )
        if check.comparisons:
            lines = map(_describe_comparison, check.comparisons)
            parts.append(
                Padding(TableOrLines(_render_comparisons(check.comparisons), tuple(lines)), (0, 0, 1, 2), expand=False)
            )
        if check.figures:
            parts.append(Padding(_render_figures(check.figures), (0, 0, 1, 2), expand=False))
    return Group(*parts, *_render_remarks(report))


def format_size(count: int) -> str:
    """Return a number of bytes in the unit that suits it: "87.6 MiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def render_report(report: Report) -> RenderableType:
    """Return the details of a report, and its verdict."""
    return Group(render_details(report), _render_total(report))


def render_short_report(report: Report) -> RenderableType:
    """Return one line per check, what was not checked, warnings and the verdict; the whole report if it did not pass."""
    if not report:
        return render_report(report)
    remarks = _render_remarks(replace(report, remarks=tuple(one for one in report.remarks if isinstance(one, Warn))))
    return Group(_render_checks(report), *remarks, _render_total(report))


def _render_total(report: Report) -> Text:
    return Text.assemble(_render_verdict(report.verdict), f"  {report.cases} cases compared")


def render_model(model: Model) -> RenderableType:
    """Return the interface of a model below its path."""
    title = Text.assemble((str(model.path or "in memory"), "bold"), "" if model.is_as_loaded else ", edited")
    return Group(title, render_interface(model.interface))


def make_table(names: Sequence[str], figures: Sequence[str], last: str) -> Table:
    """Return an empty table with a column for each of ``names``, one for each of ``figures`` at its right, and a last one."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last, no_wrap=True)
    return table


def _make_grid() -> Table:
    """Return an empty table of aligned columns, without borders and headings."""
    return Table.grid(padding=(0, 2, 0, 0))


def _show_name(line: str) -> str:
    """Return the name of a check, or a line that begins with it, as the terminal shows it."""
    name, colon, rest = line.partition(":")
    return f"{SHOWN_NAMES.get(name, name)}{colon}{rest}"


def _render_verdict(verdict: Verdict) -> Text:
    return Text(verdict.value, style=STYLES[verdict])


def _render_remarks(report: Report) -> list[Text]:
    notes = [render_warning(line) if isinstance(line, Warn) else Text(f"note: {line}") for line in report.remarks]
    said = {line for check in report.checks for line in (check.detail, f"{check.name}: {check.detail}")}
    left_out = [_show_name(line) for line in report.not_checked if line not in said]
    return [*notes, *(Text(f"not checked: {line}", style="yellow") for line in left_out)]


@dataclass(frozen=True)
class TableOrLines:
    """A table, or one paragraph for each of its rows if the terminal is too narrow for it."""

    table: Table
    lines: Sequence[Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if Measurement.get(console, options.update(max_width=WIDEST), self.table).maximum <= options.max_width:
            yield self.table
        else:
            yield from self.lines


def _describe_comparison(one: Comparison) -> Text:
    figures = f"{one.kind}: {one.cases} cases, largest difference {one.worst:.1e} ({describe_share(one.margin)})"
    cosine = "" if one.cosine is None else f", smallest cosine {one.cosine:.7f}"
    return Text.assemble(_render_outcome(one), "  ", f"{figures}{cosine}", overflow="fold")


def _render_comparisons(comparisons: Sequence[Comparison]) -> Table:
    table = make_table(("feeds",), ("cases", "max diff", "of limit", "min cosine"), "verdict")
    for one in comparisons:
        cosine = "-" if one.cosine is None else f"{one.cosine:.7f}"
        table.add_row(one.kind, str(one.cases), f"{one.worst:.1e}", format_share(one.margin), cosine, _render_outcome(one))
    return table


def _render_figures(figures: Sequence[Figure]) -> Table:
    """Return one sentence for each figure, after its verdict if it was judged."""
    table = _make_grid()
    for one in figures:
        table.add_row(Text("") if one.least is None else _render_verdict(one.verdict), Text(str(one), overflow="fold"))
    return table


def _render_outcome(one: Comparison) -> Text:
    return _render_verdict(one.verdict) + Text(f" {one.not_finite} NaN/Inf" if one.not_finite else "")
