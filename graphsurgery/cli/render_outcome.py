"""What edits and rewrites did, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsurgery.cli.render import (
    bullets,
    consumer_table,
    facts_table,
    heading,
    interface_table,
    proof,
    report_details,
    section,
    title,
)
from graphsurgery.compare.timing import Timings
from graphsurgery.outcome import Outcome
from graphsurgery.rewrites.fuse.fusions import FusionReport


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print what was done, the new interface, the proof, how to run the file, and who can read it."""
    _print_notes(console, outcome)
    console.print(section("Interface", interface_table(outcome.interface)))
    _print_proof(console, outcome)
    if outcome.saved:
        console.print(heading("Run it"))
        console.print(Text(outcome.snippet, style="cyan"), soft_wrap=True)  # unwrapped, so that it can be copied
    console.print(section("Who reads it as it is", consumer_table(outcome.consumers)))


def print_optimized(console: Console, outcome: Outcome) -> None:
    """Print what fused and what did not, the proof, and whether it helped."""
    _print_notes(console, outcome)
    _print_proof(console, outcome)
    if outcome.timings is not None:
        console.print(section("Time", timing_table(outcome.timings)))


def print_failed(console: Console, outcome: Outcome) -> None:
    """Print why an outcome is wrong: what fused, and every comparison of a proof that did not pass."""
    if outcome.fusions is not None:
        console.print(fusion_table(outcome.fusions))
    if outcome.report is not None and not outcome.report:
        console.print(report_details(outcome.report))


def _print_notes(console: Console, outcome: Outcome) -> None:
    console.print(title(outcome.source, outcome.output, written=outcome.saved is not None))
    found = [str(outcome.architecture)] if outcome.architecture is not None else []
    tried = [f"warning: not used: {attempt}" for attempt in outcome.attempts]
    console.print(bullets([*found, *outcome.notes, *tried]))
    if outcome.fusions is not None:
        console.print(section("Fused", fusion_table(outcome.fusions)))


def _print_proof(console: Console, outcome: Outcome) -> None:
    console.print(proof(outcome.report))
    if outcome.loss is not None:
        console.print(section("Loss", loss_table(outcome.loss)))


def fusion_table(fusions: FusionReport) -> RenderableType:
    """Count the parts of each kind that fused, and list those that did not, layer by layer, with the reason."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for layer, kind, why in fusions.misses():
        table.add_row(Text("missed", style="yellow"), Text(layer), Text(kind), Text(why, style="dim", overflow="fold"))
    return Group(Text(fusions.summary, style="" if fusions.complete else "yellow"), *([table] if table.rows else []))


def loss_table(loss: Mapping[str, Any]) -> RenderableType:
    """Show how far half precision is from float32 by each engine, at each output if there are several."""
    measured = loss.get("opinions", ())
    several = len({one["output"] for one in measured}) > 1
    return facts_table([(f"by {one['engine']}" + several * f", {one['output']}", _loss(one)) for one in measured])


def _loss(measured: Mapping[str, Any]) -> str:
    loss = measured["loss"]
    if loss is None:
        return f"not measured: {measured['why']}"
    cosines = f"cosine {loss['min_cosine']:.7f} at least, {loss['mean_cosine']:.7f} on average"
    return f"{cosines}, {loss['max_abs_diff']:.1e} apart at most, over {loss['vectors']} vectors"


def timing_table(timings: Timings) -> RenderableType:
    """Show the median time of both files, and whether the new one is faster here."""
    facts = [
        (f"{one.texts} x {one.tokens} tokens", f"{one.before:.2f} ms -> {one.after:.2f} ms ({one.ratio:.2f}x)")
        for one in timings.shapes
    ]
    slower = any(one.helped is False for one in timings.shapes)
    style = "bold yellow" if slower else "green" if timings.helped else ""
    return Group(facts_table(facts), Text(str(timings), style=style))
