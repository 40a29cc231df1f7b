"""Results as the command line shows them: for the terminal, as text, and as HTML for notebooks."""

from __future__ import annotations

import io
from functools import singledispatch

from rich.console import Console, Group, RenderableType
from rich.text import Text

from graphsurgery.baking.bake import Baked
from graphsurgery.benchmarking.results import Benchmark
from graphsurgery.cli.render import STYLES, render_details, render_interface
from graphsurgery.cli.render_benchmark import render_benchmark
from graphsurgery.cli.render_inspection import render_inspection
from graphsurgery.cli.render_short import render_baked, render_exported, render_outcome
from graphsurgery.exporting.export_folder import Exported
from graphsurgery.inspection import Inspection
from graphsurgery.interface import read_optional_inputs
from graphsurgery.model.model import Model
from graphsurgery.outcome import Outcome
from graphsurgery.report import Report

WIDTH = 100
"""The columns of a result as text or HTML."""
PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'


@singledispatch
def render(result: object, _: float | None = None) -> RenderableType:
    """Return what the command line prints of a result. The second argument is how many seconds the work took, if known."""
    return Text(repr(result))


@render.register
def _(result: Report, _: float | None = None) -> RenderableType:
    verdict = Text.assemble((result.verdict.value, STYLES[result.verdict]), f"  {result.cases} cases compared")
    return Group(render_details(result), verdict)


@render.register
def _(result: Model, _: float | None = None) -> RenderableType:
    title = Text.assemble((str(result.path or "in memory"), "bold"), "" if result.is_as_loaded else ", edited")
    return Group(title, render_interface(result.interface, read_optional_inputs(result.proto.graph)))


render.register(Outcome, render_outcome)
render.register(Baked, render_baked)
render.register(Exported, render_exported)
render.register(Inspection, lambda result, _=None: render_inspection(result))
render.register(Benchmark, lambda result, _=None: render_benchmark(result))


def to_text(result: object) -> str:
    """Return a result as plain text."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(render(result), crop=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def to_html(result: object) -> str:
    """Return a result as HTML."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, record=True, force_jupyter=False)
    console.print(render(result), crop=False)
    return console.export_html(inline_styles=True, code_format=PAGE)
