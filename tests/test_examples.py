"""The examples run: the scripts as they are called without arguments, and the notebook's cells in order."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"
SAYS = {
    "pool_and_embed.py": ("PASSED", "cosine 1.000 with the first text"),
    "convert_folders.py": ("bert: PASSED", "xlmr: PASSED"),
    "search.py": ("  ",),
    "tour.ipynb": ("hidden state: last_hidden_state of width 32", "PASSED head proof", "largest difference"),
}
"""What each example prints, among other things."""


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == set(SAYS)


@pytest.mark.parametrize("name", [name for name in SAYS if name.endswith(".py")])
def test_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    check(name, run_script(EXAMPLES / name))


def test_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    cells = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sources and all(not cell.get("outputs") for cell in cells), "saved without outputs"
    printed, names = io.StringIO(), {"__name__": "__main__"}
    with contextlib.redirect_stdout(printed):
        for source in sources:
            exec(compile(source, "tour.ipynb", "exec"), names)
    check("tour.ipynb", printed.getvalue())


def run_script(path: Path) -> str:
    """Return what a script prints. It may end by `sys.exit(0)`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            assert not end.code, printed.getvalue()
    return printed.getvalue()


def check(name: str, printed: str) -> None:
    assert [words for words in SAYS[name] if words not in printed] == [], printed
