"""The programs that verbs print, run in this process."""

from __future__ import annotations

import contextlib
from typing import Any


def run_program(program: str) -> dict[str, Any]:
    """The names that a program makes. What it prints is not shown."""
    scope: dict[str, Any] = {}
    with contextlib.redirect_stdout(None):
        exec(program, scope)
    return scope
