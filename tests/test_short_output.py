"""What a verb that writes prints: a few lines, with sizes, the verdict, warnings in full, and commands that run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import FIXTURES

from graphsurgery.cli import console
from graphsurgery.cli.main import OK, run

LINES = 7
"""The most lines on a wide terminal, without warnings: what became of what, five findings, and two commands make eight."""
SHORTER = {"bench": ["--batches", "1", "--lengths", "8", "--seconds", "0.01"], "optimize": ["--no-timing"]}
JOBS = {
    "add-pooling": ["add-pooling", "model.onnx", "--normalize"],
    "strip-head": ["strip-head", "pooled.onnx"],
    "fix-dim": ["fix-dim", "model.onnx", "--dim", "batch_size=2"],
    "optimize": ["optimize", "pooled.onnx", "--no-timing"],
    "portable": ["optimize", "model.onnx", "--portable", "--no-timing"],
    "bake": ["bake", "folder"],
    "not proven": ["add-pooling", "model.onnx", "--no-verify", "-o", "other.onnx"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FIXTURES / "bert", tmp_path, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "bert", tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    assert run(["add-pooling", "model.onnx", "-o", "pooled.onnx", "--no-verify", "-q"]) == OK
    return tmp_path


def show(arguments: list[str], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(console.out, "_width", width)
    capsys.readouterr()
    assert run(arguments) == OK
    return capsys.readouterr().out.splitlines()


def list_commands(lines: list[str]) -> list[str]:
    return [line[12:] for line in lines if line[12:].startswith("graphsurgery ")]


@pytest.mark.parametrize("job", JOBS)
def test_a_few_lines_and_commands_that_run(job: str, folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = show(JOBS[job], 160, capsys, monkeypatch)
    commands = list_commands(lines)
    assert 5 <= len(lines) <= LINES + 1 and 1 <= len(commands) <= 2, lines
    assert re.search(r"^\S+ [\d.]+ KiB -> \S+ [\d.]+ KiB$", lines[0].rstrip())
    labels = [line.split()[0] for line in lines[1:] if line[0] != " "]
    assert labels[:3] == ["done:", "interface:", "proof:"] and labels[-1] == "next:"
    proof = next(line for line in lines if line.startswith("proof:"))
    assert re.search(r"; \d+\.\ds$", proof.rstrip())
    assert "skipped" in proof if job == "not proven" else "PASSED" in proof
    assert not any("InferenceSession" in line for line in lines)
    for command in commands:
        verb = command.split()[1]
        more = [*SHORTER.get(verb, []), *(["--no-verify"] if verb == "optimize" else [])]
        assert verb == "quantize" or run([*shlex.split(command)[1:], *more]) == OK, command


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_terminal_and_commands_can_be_copied(width: int, folder: Path, capsys, monkeypatch) -> None:
    lines = show(JOBS["add-pooling"], width, capsys, monkeypatch)
    commands = list_commands(lines)
    assert commands[0] == "graphsurgery optimize model.pooled.onnx"
    assert all(len(line) <= width for line in lines if line[12:] not in commands)
    assert "…" not in "".join(lines)
    assert all(line == line.rstrip() for line in lines), "a copied line has no trailing blanks"


def test_optimize_says_what_fused_and_how_many_operators_there_were(folder: Path, capsys, monkeypatch) -> None:
    lines = show(JOBS["optimize"], 160, capsys, monkeypatch)
    done = next(line for line in lines if line.startswith("done:"))
    before, after = map(int, re.search(r"operators (\d+) -> (\d+)", done).groups())
    assert "fused attention 3/3" in done and before > 3 * after


def test_warnings_are_printed_in_full_and_what_was_not_checked(fixture_copy, capsys, monkeypatch) -> None:
    model = fixture_copy("xlmr")
    lines = show(["add-pooling", str(model), "--mode", "mean"], 60, capsys, monkeypatch)
    shown = " ".join(" ".join(lines).split())
    assert "warning: " in shown and "cls" in shown.partition("warning: ")[2]


def test_the_whole_report_on_request(folder: Path, capsys, monkeypatch) -> None:
    arguments = ["add-pooling", "model.onnx", "--no-verify", "--force", "-o", "p.onnx"]
    long = show([*arguments, "-v"], 100, capsys, monkeypatch)
    assert any("InferenceSession" in line for line in long) and any("text-embeddings-inference" in line for line in long)
    assert show([*arguments, "-q"], 100, capsys, monkeypatch) == []


def test_a_dry_run_says_that_nothing_was_written(folder: Path, capsys, monkeypatch) -> None:
    lines = show(["add-pooling", "model.onnx", "--dry-run", "--no-verify"], 160, capsys, monkeypatch)
    assert lines[0].rstrip().endswith("(not written)") and not list_commands(lines)


def test_bake_names_the_programs_that_read_the_file(folder: Path, capsys, monkeypatch) -> None:
    lines = show(["bake", "folder", "--no-verify"], 160, capsys, monkeypatch)
    (readers,) = (line for line in lines if line.startswith("readers:"))
    assert "text-embeddings-inference" in readers and "Vespa" in readers
