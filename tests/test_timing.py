"""Whether optimizing helped, as `optimize` tells it: what is faster, what is slower, and what is chance."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import graphsurgery
from graphsurgery.cli.main import run
from graphsurgery.compare.timing import BUSY, LEAST, MOST, Timing, Timings, measure_times
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.runtime import other_work
from graphsurgery.runtime.other_work import Moment, count_busy_processors
from graphsurgery.runtime.session import Session

FASTER = Timing(1, 16, ((2.0, 1.0), (2.2, 1.1), (2.0, 1.1)))
SLOWER = Timing(32, 64, ((1.0, 1.5), (1.1, 1.5), (1.0, 1.4)))
SAME = Timing(8, 32, ((1.0, 1.0), (1.0, 1.01), (1.02, 1.0)))
NOISY = Timing(8, 32, ((1.0, 2.0), (1.0, 0.9), (1.0, 0.5), (1.0, 0.9), (1.0, 1.8), (1.0, 0.8)))


@pytest.mark.parametrize(
    ("shapes", "helped", "said"),
    [
        ([FASTER], True, "faster here (1.82x at 1 x 16 tokens)"),
        ([SLOWER], False, "SLOWER here (0.67x at 32 x 64 tokens): keep the file it was made from"),
        ([SAME], None, "no faster here (1.00x at 8 x 32 tokens)"),
        ([NOISY], None, "not judged: the machine was busy (1.11x at 8 x 32 tokens)"),
        ([FASTER, NOISY], True, "faster here (1.82x at 1 x 16 tokens); not judged: the machine was busy (1.11x at 8 x 32"),
        ([SLOWER, NOISY], False, "SLOWER here (0.67x at 32 x 64 tokens): time it on texts of your own; not judged: the"),
        ([FASTER, SAME], True, "faster here (1.82x at 1 x 16 tokens), no faster (1.00x at 8 x 32 tokens)"),
        ([SAME, SLOWER], False, "no faster here (1.00x at 8 x 32 tokens), SLOWER (0.67x at 32 x 64 tokens): keep the file it"),
        ([FASTER, SLOWER], None, "faster here (1.82x at 1 x 16 tokens), SLOWER (0.67x at 32 x 64 tokens): time it on"),
    ],
)  # fmt: skip
def test_what_is_told(shapes: list[Timing], helped: bool | None, said: str) -> None:
    timings = Timings(tuple(shapes))
    assert timings.helped is helped and str(timings).startswith(said)
    assert timings.to_json()["helped"] is helped


def test_pairs_are_of_one_size(fixture_copy) -> None:
    """A file against itself: as many runs of both, every shape that it takes, and no word of a difference that is large."""
    path = fixture_copy("bert")
    timings = measure_times(Session(path), Session(path), make_feed_generator(graphsurgery.load(path)))
    assert [(one.texts, one.tokens) for one in timings.shapes] == [(1, 16), (8, 32), (32, 62)]
    assert all(LEAST <= len(one.pairs) <= MOST and min(*one.pairs[0]) > 0 for one in timings.shapes)


class Clock:
    """Two sessions that take no time and say that they took some: the seconds of ``each``, over and over."""

    def __init__(self) -> None:
        self.now = 0.0

    def session(self, *each: float) -> SimpleNamespace:
        calls = iter(range(1 << 20))

        def take(feed: dict[str, np.ndarray]) -> None:
            self.now += each[next(calls) % len(each)]

        return SimpleNamespace(run=take)


@pytest.mark.parametrize(
    ("before", "after", "helped", "judged"),
    [
        ((0.02,), (0.01,), True, True),
        ((0.01,), (0.02,), False, True),
        ((0.01,), (0.01,), None, True),
        ((0.01, 0.03), (0.03, 0.01, 0.02), None, False),  # others took turns on the processors
        ((0.04, 0.05, 0.09), (0.01, 0.02), True, True),  # busy, and yet clear
    ],
)
def test_times_and_ratio_agree(
    before: tuple[float, ...], after: tuple[float, ...], helped: bool | None, judged: bool, fixture_copy, monkeypatch
) -> None:
    """What is shown is one statistic: the ratio is that of the times beside it."""
    clock = Clock()
    monkeypatch.setattr("graphsurgery.compare.timing.time", SimpleNamespace(perf_counter=lambda: clock.now))
    generator = make_feed_generator(graphsurgery.load(fixture_copy("bert")))
    told: list[tuple[str, int, int]] = []
    timings = measure_times(
        clock.session(*before),
        clock.session(*after),
        generator,
        progress=lambda *one: told.append(one),  # type: ignore[arg-type]
    )
    assert told == [("timing both files", done, len(timings.shapes)) for done in range(len(timings.shapes))]
    for one in timings.shapes:
        told = one.to_json()
        assert told["ratio"] == pytest.approx(told["before_ms"] / told["after_ms"])
        assert (one.helped, one.is_unjudged, told["judged"]) == (helped, not judged, judged)
    assert (BUSY in str(timings)) is not judged and ("SLOWER" in str(timings)) is (helped is False)


def test_the_terminal_shows_times_that_give_the_ratio(
    fixture_copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scattered = Timings((Timing(1, 16, ((3.0, 1.5), (3.1, 3.1), (2.0, 3.0), (3.2, 3.1), (1.0, 2.0))),), others=1.26)
    monkeypatch.setattr("graphsurgery.optimizer.search.measure_times", lambda *_: scattered)
    run(["optimize", str(fixture_copy("bert")), "-o", str(tmp_path / "made.onnx"), "-v"])
    shown = " ".join(capsys.readouterr().out.split())
    found = re.search(r"([0-9.]+) ms -> ([0-9.]+) ms \(([0-9.]+)x\)", shown)
    assert found is not None and float(found[1]) / float(found[2]) == pytest.approx(float(found[3]), abs=0.005)
    assert BUSY in shown and "SLOWER" not in shown and "other programs kept 1.3 of" in shown


def test_the_load_is_that_of_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processors for ten seconds: 12 s of work, 8 s of them our own."""
    assert count_busy_processors(Moment(100, 50, 3), Moment(110, 62, 11)) == pytest.approx(0.4)
    assert count_busy_processors(Moment(1, 0, 0), Moment(2, 1, 5)) == 0
    assert count_busy_processors(None, Moment(2, 1, 5)) is None
    (tmp_path / "stat").write_text("cpu  100 10 50 900 40 5 5 30 7 8\ncpu0 1 2 3\n", encoding="ascii")
    monkeypatch.setattr(other_work, "STATISTICS", tmp_path / "stat")
    monkeypatch.setattr(other_work.os, "sysconf", lambda _: 100)
    now = Moment.now()
    assert now is not None and now.all == pytest.approx(2.0)
    monkeypatch.setattr(other_work, "STATISTICS", tmp_path / "absent")
    assert Moment.now() is None
    assert Timings((SAME,), others=0.01).describe_load() == "" == Timings((SAME,)).describe_load()
