"""Draw docs/terminal.svg, the README's picture of a terminal: run a few commands on a fixture, and save what they print.

python scripts/picture.py
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS = 100
COMMANDS = (
    "graphsurgery add-pooling model.onnx --mode mean --normalize",
    "graphsurgery verify model.pooled.onnx --against model.onnx",
)


def run(command: str, folder: Path) -> str:
    """Return what a command prints on a terminal of ``COLUMNS`` columns, with its colours."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    arguments = [sys.executable, "-m", *shlex.split(command)]
    return subprocess.run(arguments, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def draw() -> str:
    """Return the picture as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "fixtures" / "bert", folder, dirs_exist_ok=True)
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "green"), (command, "bold")))
            console.print(Text.from_ansi(run(command, Path(folder))))
            console.print()
    svg = console.export_svg(title="graphsurgery")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # no font from elsewhere: any monospace will do


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
