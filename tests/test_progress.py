"""What long work reports: proofs say how many of how many feeds are done, and a terminal shows it after a while."""

from __future__ import annotations

import io
import time
from pathlib import Path

from conftest import FIXTURES
from rich.console import Console

import graphsurgery
from graphsurgery.cli.progress_display import ProgressDisplay

BERT = FIXTURES / "bert" / "model.onnx"
Told = list[tuple[str, int, int]]


def record(told: Told):
    return lambda doing, done=0, total=0: told.append((doing, done, total))


def require_counted(told: Told, doing: str) -> None:
    """The parts of this work count up to its total, one by one."""
    counts = [(done, total) for what, done, total in told if what.startswith(doing) and total]
    total = counts[0][1]
    assert total > 5
    assert counts == [(done, total) for done in range(total)]


def test_the_whole_proof_counts_its_feeds(tmp_path: Path) -> None:
    told: Told = []
    graphsurgery.run([graphsurgery.AddPooling("mean")], BERT, output=tmp_path / "o.onnx", progress=record(told))
    require_counted(told, "whole proof")
    assert ("head proof", 0, 0) in told


def test_the_proof_of_a_rewrite_counts_its_feeds(tmp_path: Path) -> None:
    told: Told = []
    graphsurgery.optimize(BERT, output=tmp_path / "o.onnx", time=False, portable=True, progress=record(told))
    require_counted(told, "running the source")
    require_counted(told, "running the new file")


def test_texts_are_counted() -> None:
    pooled = graphsurgery.add_pooling(BERT, "mean")
    told: Told = []
    texts = FIXTURES.parent / "README.md"
    graphsurgery.verify(pooled, against=pooled, texts=texts, top_k=2, progress=record(told))
    for whose in ("source", "model"):
        counts = [(done, total) for what, done, total in told if what == f"embedding texts by the {whose}"]
        assert counts[0][0] == 0 and counts == sorted(counts) and counts[-1][0] < counts[-1][1]


def show(patience: float, seconds: float) -> str:
    """What a terminal gets to see of work that takes ``seconds``."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with ProgressDisplay(console, patience) as display:
        display.show("proving", 3, 42)
        time.sleep(seconds)
        display.show("writing")
    return console.file.getvalue()


def test_short_work_shows_nothing() -> None:
    assert show(patience=60, seconds=0) == ""


def test_long_work_shows_a_bar_with_figures_and_the_time() -> None:
    shown = show(patience=0, seconds=0.3)
    assert "proving" in shown and "3/42" in shown and "0:00:00" in shown
    assert shown.endswith("\x1b[2K")  # the line is gone afterwards
