"""What a verb that writes prints unless asked for more: what became of what, in a few lines, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from graphsurgery.cli.next_commands import list_next, list_next_of_baked, list_next_of_exported, list_next_of_towers
from graphsurgery.cli.render import STYLES, WARNING, format_size
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.model.model import Model
from graphsurgery.model.staging import Saved
from graphsurgery.outcome import Outcome
from graphsurgery.report import Report, list_few, summarize_report
from graphsurgery.snippet import shorten_path

if TYPE_CHECKING:  # a verb does not import what others need
    from graphsurgery.baking.bake import Baked
    from graphsurgery.baking.split_towers import SplitTowers
    from graphsurgery.exporting.export_folder import Exported
    from graphsurgery.fixing.fix import Fixed

MOST_LEFT_OUT = 2
"""The most parts of a proof that were not checked and are listed. More are counted."""
INDENT = 12
"""The columns that labels take."""
Line = tuple[str, str | Text]
"""A label and a text."""


@dataclass(frozen=True)
class LabelledLines:
    """Texts to the right of their labels. A long text continues below its start, and no line ends with blanks."""

    lines: Sequence[Line]
    title: Text | None = None
    """The text above them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title is not None:
            yield from _wrap(self.title, console, options.max_width)
        for label, text in self.lines:
            whole = text if isinstance(text, Text) else Text(text)
            style = WARNING if label == "warning" else "dim"
            for place, part in enumerate(_wrap(whole, console, options.max_width - INDENT)):
                shown = f"{label}:" if label and place == 0 else ""
                yield Text.assemble((f"{shown:{INDENT}}", style), part)


def _wrap(text: Text, console: Console, width: int) -> Iterator[Text]:
    for part in text.wrap(console, max(width, 1), overflow="fold"):
        part.rstrip()
        yield part


def render_outcome(outcome: Outcome, seconds: float | None = None) -> RenderableType:
    """Return a few lines on edits or rewrites that were run, in ``seconds``."""
    source = outcome.source.path
    title = _render_title("model" if source is None else shorten_path(source), outcome, shorten_path(outcome.output))
    return _render(title, outcome, list_next(outcome), seconds)


def render_baked(baked: Baked, seconds: float | None = None) -> RenderableType:
    """Return a few lines on a folder that was baked, with the programs that read its file."""
    title = _render_title(shorten_path(baked.plan.folder), baked.outcome, shorten_path(baked.folder))
    readers = [one.consumer for one in baked.outcome.consumers if one.reads]
    line = ("readers", ", ".join(readers) or "no known program reads this file as it is")
    return _render(title, baked.outcome, list_next_of_baked(baked), seconds, line)


def render_fixed(fixed: Fixed, seconds: float | None = None) -> RenderableType:
    """Return a line on each fault of an export, and a few lines on the edits that mended some of them."""
    outcome = fixed.outcome
    source = outcome.source.path
    title = _render_title("model" if source is None else shorten_path(source), outcome, shorten_path(outcome.output))
    mended = [("mended" if place == 0 else "", f"{one} ({one.mended_by})") for place, one in enumerate(fixed.mended)]
    lines: list[Line] = [*mended, ("interface", _describe_interface(outcome)), *_list_findings(outcome, seconds)]
    return Group(LabelledLines(lines, title), *_render_end(fixed.warnings, list_next(outcome)))


def render_towers(split: SplitTowers, seconds: float | None = None) -> RenderableType:
    """Return a few lines on each tower of a joint model, and on their similarities."""
    towers = []
    for outcome in split.towers.values():
        source = outcome.source.path
        title = _render_title("model" if source is None else shorten_path(source), outcome, shorten_path(outcome.output))
        lines: list[Line] = [("done", _describe_work(outcome)), ("interface", _describe_interface(outcome))]
        towers.append(LabelledLines([*lines, *_list_findings(outcome, None)], title))
    took = "" if seconds is None else f"; {seconds:.1f}s"
    both: list[Line] = []
    if split.report is not None:
        (check,) = split.report.checks
        both.append(("both", Text.assemble((check.verdict.value, STYLES[check.verdict]), f"  {check.detail}{took}")))
    return Group(*towers, LabelledLines(both), *_render_end(split.warnings, list_next_of_towers(split)))


def render_exported(exported: Exported, seconds: float | None = None) -> RenderableType:
    """Return a few lines on a file that was exported."""
    size = format_size(exported.path.stat().st_size) if exported.path.exists() else ""
    took = "" if seconds is None else f"; {seconds:.1f}s"
    lines: list[Line] = [
        ("done", f"{exported.task}, exported by {exported.program}"),
        ("proof", f"differs from PyTorch by at most {exported.worst:.1e}{took}"),
    ]
    title = Text.assemble((shorten_path(exported.path), "bold"), f"  {size}")
    return Group(LabelledLines(lines, title), *_render_end(exported.warnings, list_next_of_exported(exported)))


def _render(title: Text, outcome: Outcome, commands: Sequence[str], seconds: float | None, *more: Line) -> RenderableType:
    lines: list[Line] = [
        ("done", _describe_work(outcome)),
        ("interface", _describe_interface(outcome)),
        *_list_findings(outcome, seconds),
        *more,
    ]
    return Group(LabelledLines(lines, title), *_render_end(outcome.warnings, commands))


def _render_end(warnings: Sequence[str], commands: Sequence[str]) -> Iterator[RenderableType]:
    yield LabelledLines([("warning", Text(one, WARNING)) for one in warnings])
    for place, command in enumerate(commands):
        label = "next:" if place == 0 else ""
        yield Text.assemble(f"{label:{INDENT}}", (command, "cyan"), no_wrap=True, overflow="ignore")  # so that it can be copied


def _render_title(before: str, outcome: Outcome, after: str) -> Text:
    was_written = outcome.saved is not None
    sizes = (_measure_size(outcome.source, None), _measure_size(outcome.model, outcome.saved))
    return Text.assemble(
        (before, "bold"), f" {format_size(sizes[0])} -> ", (after, "bold"), f" {format_size(sizes[1])}",
        "" if was_written else "  (not written)",
    )  # fmt: skip


def _measure_size(model: Model, saved: Saved | None) -> int:
    """Return the bytes of a model's file and of its external data."""
    is_there = saved is not None and saved.path.exists()
    own = saved.path.stat().st_size if saved is not None and is_there else model.document.size
    return own + sum(one.length for one in model.externals)


def _describe_work(outcome: Outcome) -> str:
    """Say in one line what was done: the new edits, what fused, and how many operators there were and are."""
    new = [step["edit"] for step in outcome.steps[len(read_head_steps(outcome.source)) :]]
    rewrites = outcome.model.rewrites[len(outcome.source.rewrites) :]
    if not rewrites:
        return ", ".join(new) if len(new) > 1 else next(iter(outcome.notes), "")
    quantised = next((step.given["quantized"] for step in rewrites if "quantized" in step.given), None)
    fused = f"fused {outcome.fusions.summary}" if outcome.fusions is not None else ""
    done = f"quantised {quantised.get('products')} products" if quantised is not None else fused or "rewrote the graph"
    chosen = f"chose {outcome.choice.chosen}" if outcome.choice is not None else ""
    operators = f"operators {len(outcome.source.proto.graph.node)} -> {len(outcome.model.proto.graph.node)}"
    return "; ".join(filter(None, (", ".join(new), done, chosen, operators)))


def _describe_interface(outcome: Outcome) -> str:
    """Name the inputs, with types and dims if these are new, and describe the outputs."""
    before = set(outcome.source.interface.inputs)
    inputs = [value.name if value in before else str(value) for value in outcome.interface.inputs]
    inputs += [f"{value.name} (optional)" for value in outcome.interface.optional]
    return f"{list_few(inputs)} -> {list_few(map(str, outcome.interface.outputs))}"


def _list_findings(outcome: Outcome, seconds: float | None) -> Iterator[Line]:
    """Yield the verdict, what was not checked, and for rewrites the loss, the quality and the speed."""
    took = "" if seconds is None else f"; {seconds:.1f}s"
    if outcome.report is None:
        yield "proof", Text(f"skipped (--no-verify){took}", style="yellow")
    else:
        yield "proof", _render_verdict(outcome.report, took)
        yield from (("", Text(f"not checked: {line}", style="yellow")) for line in _list_left_out(outcome.report))
    if outcome.loss is not None and outcome.loss.get("min_cosine") is not None:
        yield "loss", f"smallest cosine with the vectors in float32 {outcome.loss['min_cosine']:.7f}"
    if outcome.choice is not None:
        chosen = next((one for one in outcome.choice.candidates if one.name == outcome.choice.chosen), None)
        if chosen is not None and chosen.quality is not None:
            yield "quality", str(chosen.quality)
        if chosen is not None and chosen.timings and outcome.timings is None:
            yield "speed", "; ".join(map(str, chosen.timings))
    if outcome.timings is not None:
        style = "bold yellow" if any(one.helped is False for one in outcome.timings.shapes) else ""
        yield "speed", Text(str(outcome.timings), style=style, overflow="fold")


def _render_verdict(report: Report, took: str) -> Text:
    return Text.assemble((report.verdict.value, STYLES[report.verdict]), f"  {summarize_report(report)}{took}", overflow="fold")


def _list_left_out(report: Report) -> list[str]:
    """Return what was not checked, or how much of it there is."""
    if len(report.not_checked) <= MOST_LEFT_OUT:
        return list(report.not_checked)
    return [f"{len(report.not_checked)} parts (--verbose lists them)"]
