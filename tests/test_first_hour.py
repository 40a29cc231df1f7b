"""The captures of the first hour belong to today's README. `make first-hour` makes them again and compares."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests" / "first_hour"))
from first_hour import HERE, WIDTHS, normalize, read_commands

COMMANDS = list(read_commands((ROOT / "README.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("columns", WIDTHS)
def test_captures_hold_every_command_of_the_readme(columns: int) -> None:
    captured = (HERE / f"{columns}.txt").read_text(encoding="utf-8")
    shown = [command for command in COMMANDS if f"$ {command}\n" in captured]
    assert shown == COMMANDS
    assert all(len(line) <= columns for line in captured.splitlines() if not line.startswith(("$ ", "import ")))


def test_a_newcomer_meets_the_main_verbs() -> None:
    verbs = {command.split()[1] for command in COMMANDS if command.startswith("graphsurgery ")}
    assert {"inspect", "add-pooling", "verify", "bake", "strip-head"} <= verbs
    assert COMMANDS[0].startswith("python3 -m venv") and any(command.startswith("python - ") for command in COMMANDS)


def test_captures_do_not_depend_on_the_machine() -> None:
    assert normalize("\x1b[1mPASSED\x1b[0m 3.1e-08 (12.5% of it)\r\n\u2807 proving\r\n0.42 s  onnxruntime 1.32.0") == (
        "PASSED #e-# (#% of it)\n# s onnxruntime #.#.#"
    )
