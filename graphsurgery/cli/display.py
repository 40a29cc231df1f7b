"""Results as the command line shows them: for the terminal, as text, and as HTML for notebooks."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

from rich.console import Console, RenderableType

WIDTH = 100
"""The columns of a result as text or HTML."""
PAGE = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'
RENDERERS = {
    "Outcome": "render_short:render_outcome",
    "Baked": "render_short:render_baked",
    "Fixed": "render_short:render_fixed",
    "SplitTowers": "render_short:render_towers",
    "Exported": "render_short:render_exported",
    "Inspection": "render_inspection:render_inspection",
    "Benchmark": "render_benchmark:render_benchmark",
    "Report": "render:render_report",
    "Model": "render:render_model",
}
"""The function of this package that renders each kind of result. Its module is imported when there is such a result, so that a
verb does not import what belongs to others."""


def render(result: object, seconds: float | None = None) -> RenderableType:
    """Return what the command line prints of a result, and of the ``seconds`` that it took if these are given."""
    module, function = RENDERERS[type(result).__name__].split(":")
    renderer: Any = getattr(import_module(f"graphsurgery.cli.{module}"), function)
    rendered: RenderableType = renderer(result) if seconds is None else renderer(result, seconds)
    return rendered


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
