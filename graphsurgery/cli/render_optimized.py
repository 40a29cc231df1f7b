"""What `optimize` did, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsurgery.cli.render import bullets, facts_table, proof, section, title
from graphsurgery.compare.timing import Timings
from graphsurgery.optimizer.outcome import Optimized
from graphsurgery.rewrites.fuse.fusions import FusionReport


def print_optimized(console: Console, done: Optimized) -> None:
    """What was fused and what was not, the proof, whether it helped."""
    console.print(title(done.source, done.output, written=done.saved is not None))
    lines = [str(done.architecture)] if done.architecture is not None else []
    tried = [f"warning: not used: {attempt}" for attempt in done.attempts]
    console.print(bullets([*lines, *done.notes, *tried]))
    if done.fusions is not None:
        console.print(section("Fused", fusion_table(done.fusions)))
    console.print(proof(done.report))
    if done.loss is not None:
        console.print(section("Loss", loss_table(done.loss)))
    if done.timings is not None:
        console.print(section("Time", timing_table(done.timings)))


def fusion_table(fusions: FusionReport) -> RenderableType:
    """The count of each kind; then what was missed, layer by layer, and why."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for layer, kind, why in fusions.misses():
        table.add_row(Text("missed", style="yellow"), Text(layer), Text(kind), Text(why, style="dim", overflow="fold"))
    return Group(Text(fusions.summary, style="" if fusions.complete else "yellow"), *([table] if table.rows else []))


def loss_table(loss: Mapping[str, Any]) -> RenderableType:
    """What half precision loses against float32, engine by engine."""
    return facts_table([(f"by {one['engine']}", _loss(one)) for one in loss.get("opinions", ())])


def _loss(opinion: Mapping[str, Any]) -> str:
    loss = opinion["loss"]
    if loss is None:
        return f"not measured: {opinion['why']}"
    cosines = f"cosine {loss['min_cosine']:.7f} at least, {loss['mean_cosine']:.7f} on average"
    return f"{cosines}, {loss['max_abs_diff']:.1e} apart at most, over {loss['vectors']} vectors"


def timing_table(timings: Timings) -> RenderableType:
    """Both files by turns, medians; and whether the new one is faster here."""
    facts = [
        (f"{one.texts} x {one.tokens} tokens", f"{one.before:.2f} ms -> {one.after:.2f} ms ({one.ratio:.2f}x)")
        for one in timings.shapes
    ]
    slower = any(one.helped is False for one in timings.shapes)
    style = "bold yellow" if slower else "green" if timings.helped else ""
    return Group(facts_table(facts), Text(str(timings), style=style))
