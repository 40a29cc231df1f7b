"""What `optimize` did, in the terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsurgery.cli.render import bullets, facts_table, report_summary, section
from graphsurgery.optimizing.fusions import FusionReport
from graphsurgery.optimizing.outcome import Optimized
from graphsurgery.optimizing.timing import Timings
from graphsurgery.snippet import shown


def print_optimized(console: Console, done: Optimized) -> None:
    """What was fused and what was not, the proof, whether it helped."""
    where = "" if done.saved else "  (not written)"
    source = done.source.path.name if done.source.path else "model"
    console.print(Text.assemble((source, "bold"), " -> ", (shown(done.output), "bold"), where))
    lines = [str(done.architecture)] if done.architecture is not None else []
    tried = [f"warning: not used, because the result was wrong: {attempt}" for attempt in done.attempts]
    console.print(bullets([*lines, *done.notes, *tried]))
    if done.fusions is not None:
        console.print(section("Fused", fusion_table(done.fusions)))
    console.print(
        section("Proof", report_summary(done.report) if done.report is not None else Text("left out (--no-verify)", "yellow"))
    )
    if done.timings is not None:
        console.print(section("Time", timing_table(done.timings)))


def fusion_table(fusions: FusionReport) -> RenderableType:
    """The count of each kind; then what was missed, layer by layer, and why."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for layer, kind, why in fusions.misses():
        table.add_row(Text("missed", style="yellow"), Text(layer), Text(kind), Text(why, style="dim", overflow="fold"))
    return Group(Text(fusions.summary, style="" if fusions.complete else "yellow"), table)


def timing_table(timings: Timings) -> RenderableType:
    """Both files by turns, medians; and whether the new one is faster here."""
    facts = [
        (f"{one.texts} x {one.tokens} tokens", f"{one.before:.2f} ms -> {one.after:.2f} ms ({one.ratio:.2f}x)")
        for one in timings.shapes
    ]
    style = {True: "green", False: "bold yellow", None: ""}[timings.helped]
    return Group(facts_table(facts), Text(str(timings), style=style))
