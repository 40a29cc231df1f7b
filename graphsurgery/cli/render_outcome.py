"""The outcome of edits and rewrites in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsurgery.cli.console import err, out
from graphsurgery.cli.render import (
    CONSUMERS,
    render_consumers,
    render_details,
    render_facts,
    render_heading,
    render_interface,
    render_paragraphs,
    render_proof,
    render_section,
)
from graphsurgery.compare.choice import Candidate, Choice
from graphsurgery.compare.timing import Timings
from graphsurgery.errors import VerificationFailed
from graphsurgery.outcome import Outcome, group_attempts
from graphsurgery.rewrites.fuse.report import FusionReport
from graphsurgery.snippet import shorten_path


def print_outcome(outcome: Outcome) -> None:
    """Print the steps, the new interface, the proof, how to run the file, and which programs can read it."""
    _print_notes(outcome)
    out.print(render_section("Interface", render_interface(outcome.interface)))
    _print_proof(outcome)
    if outcome.saved:
        out.print(render_heading("Run it"))
        out.print(Text(outcome.snippet, style="cyan"), soft_wrap=True)  # unwrapped, so that it can be copied
    if outcome.consumers:
        out.print(render_section(CONSUMERS, render_consumers(outcome.consumers)))


def print_optimized(outcome: Outcome) -> None:
    """Print what fused and what did not, the proof, and whether the new file is faster."""
    _print_notes(outcome)
    _print_proof(outcome)
    if outcome.choice is not None:
        out.print(render_section("Candidates", _render_choice(outcome.choice)))
    if outcome.timings is not None:
        out.print(render_section("Time", _render_timings(outcome.timings)))


def print_failure(error: VerificationFailed) -> None:
    """Print the details of a failure on stderr: what fused, and every comparison of a proof that did not pass."""
    outcome = error.outcome
    if not isinstance(outcome, Outcome):
        return
    if outcome.fusions is not None:
        err.print(_render_fusions(outcome.fusions))
    if outcome.choice is not None:
        err.print(render_section("Candidates", _render_choice(outcome.choice)))
    if outcome.report is not None and not outcome.report:
        err.print(render_details(outcome.report))


def _print_notes(outcome: Outcome) -> None:
    source = outcome.source.path.name if outcome.source.path else "model"
    is_written = "" if outcome.saved is not None else "  (not written)"
    out.print(Text.assemble((source, "bold"), " -> ", (shorten_path(outcome.output), "bold"), is_written))
    architecture = [str(outcome.architecture)] if outcome.architecture is not None else []
    attempts = [f"not used: {attempt}" for attempt in group_attempts(outcome.attempts)]
    out.print(render_paragraphs([*architecture, *outcome.remarks, *attempts]))
    if outcome.fusions is not None:
        out.print(render_section("Fused", _render_fusions(outcome.fusions)))


def _print_proof(outcome: Outcome) -> None:
    out.print(render_proof(outcome.report))
    if outcome.loss is not None:
        out.print(render_section("Loss", _render_loss(outcome.loss)))


def _render_fusions(fusions: FusionReport) -> RenderableType:
    """Count the parts of each kind that fused, and list those that did not, layer by layer, with the reason."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for layer, kind, why in fusions.misses():
        table.add_row(Text("missed", style="yellow"), Text(layer), Text(kind), Text(why, style="dim", overflow="fold"))
    return Group(Text(fusions.summary, style="" if fusions.complete else "yellow"), *([table] if table.rows else []))


def _render_loss(loss: Mapping[str, Any]) -> RenderableType:
    """Show how far half precision is from float32 by each engine, at each output if there are several."""
    measured = loss.get("opinions", ())
    several = len({one["output"] for one in measured}) > 1
    return render_facts([(f"by {one['engine']}" + several * f", {one['output']}", _describe_loss(one)) for one in measured])


def _describe_loss(measured: Mapping[str, Any]) -> str:
    loss = measured["loss"]
    if loss is None:
        return f"not measured: {measured['why']}"
    cosines = f"smallest cosine {loss['min_cosine']:.7f}, average {loss['mean_cosine']:.7f}"
    return f"{loss['vectors']} vectors; {cosines}; largest difference {loss['max_abs_diff']:.1e}"


def _render_choice(choice: Choice) -> RenderableType:
    """Show how many times faster than the source each candidate is, on each batch, and why others were not timed or taken.

    Candidates that may lose quality are shown with it.
    """
    timed = [one for one in choice.candidates if one.timings]
    judged = [one for one in choice.candidates if one.quality is not None]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("groups of products" if judged else "texts x tokens", overflow="fold")
    for timing in timed[0].timings if timed else ():
        full = f"\n{timing.fill:.0%} full" if timing.fill < 1 else ""
        table.add_column(f"{timing.texts} x {timing.tokens}{full}", justify="right", no_wrap=True)
    for heading in ("worst\ncosine", "first\npercentile", "mean", "top 10\nkept", "MiB") if judged else ():
        table.add_column(heading, justify="right", no_wrap=True)
    for one in judged or timed:
        style = "green" if one.name == choice.chosen else ""
        times = [f"{timing.ratio:.2f}x" for timing in one.timings]
        table.add_row(Text(one.name), *times, *_describe_quality(one), style=style)
    left_out = group_attempts(
        [f"{one.name}: {one.why_not}" for one in choice.candidates if one.why_not and one.quality is None]
    )
    return Group(table, render_paragraphs([f"left out: {line}" for line in left_out]))


def _describe_quality(one: Candidate) -> list[str]:
    if one.quality is None:
        return []
    quality, size = one.quality, one.megabytes or 0.0
    cosines = (quality.worst, quality.first_percentile, quality.mean)
    return [*(f"{cosine:.4f}" for cosine in cosines), f"{quality.neighbours:.1%}", f"{size:.1f}"]


def _render_timings(timings: Timings) -> RenderableType:
    """Show the median time of both files, and whether the new one is faster here."""
    facts = [
        (f"{one.texts} x {one.tokens} tokens", f"{one.before:.2f} ms -> {one.after:.2f} ms ({one.ratio:.2f}x)")
        for one in timings.shapes
    ]
    is_slower = any(one.helped is False for one in timings.shapes)
    style = "bold yellow" if is_slower else "green" if timings.helped else ""
    load = [Text(timings.describe_load(), style="dim")] if timings.describe_load() else []
    return Group(render_facts(facts), Text(str(timings), style=style), *load)
