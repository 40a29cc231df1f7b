"""How results are shown in Python: as one line, as the text that the command line prints, and as HTML in notebooks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

DISPLAY = "graphsurgery.cli.display"
"""The module that shows results. It is found by name, because it knows every kind of result, and none of them knows it."""


class Shown:
    """A result. ``print`` shows what the command line prints, and a notebook shows the same as HTML."""

    def __str__(self) -> str:
        text: str = _display().to_text(self)
        return text

    def _repr_html_(self) -> str:
        html: str = _display().to_html(self)
        return html


def _display() -> Any:
    return import_module(DISPLAY)
