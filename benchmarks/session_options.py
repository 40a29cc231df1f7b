"""What the options of the Embedder's session are worth: each of them the other way, alone and beside other work.

    session_options.py             print it; some minutes. It needs the environment that `make bench-peers` makes
    session_options.py --quick     fewer texts and rounds: does it run?
    session_options.py --write     put it into docs/embedding.md, between its marks

The sessions take turns in one process, on the real all-MiniLM-L6-v2 with its head. Figures are medians of the ratios within a
round: how many times as fast as the session with the other choice the Embedder's own is. The other work is a process that keeps
one processor busy.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from contest.texts import read_passages, read_sentences  # noqa: E402
from page import put  # noqa: E402
from peers import SEED, describe_machine, describe_ratios  # noqa: E402
from quantized.given import prepare  # noqa: E402

from graphsurgery import Embedder  # noqa: E402
from graphsurgery.runtime import session as sessions  # noqa: E402

PAGE = ROOT / "docs" / "embedding.md"
ROUNDS, BUDGET = 15, 512
CALM = 0.05
"""Seconds before each run: threads of another session that spin give up in that time."""


def spin(options: Any) -> None:
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")


def keep_memory(options: Any) -> None:
    options.enable_cpu_mem_arena = options.enable_mem_pattern = True


def skip_prepacking(options: Any) -> None:
    options.add_session_config_entry("session.disable_prepacking", "1")


IN_TURN = "batches in turn, each on both threads"
OTHERS: Mapping[str, Callable[[Any], None]] = {
    "threads that spin while they wait": spin,
    "an arena that keeps memory, with a memory pattern": keep_memory,
    "weights that are not packed at loading": skip_prepacking,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds")
    parser.add_argument("--write", action="store_true", help="put it into docs/embedding.md")
    arguments = parser.parse_args()
    few = 8 if arguments.quick else 1
    texts = read_sentences(320 // few) + read_passages(32 // few)
    random.Random(SEED).shuffle(texts)
    with tempfile.TemporaryDirectory() as name:
        pooled = prepare(Path(name), quick=False).baked
        contenders = {"own": open_with(pooled, None), **{name: open_with(pooled, change) for name, change in OTHERS.items()}}
        contenders[IN_TURN] = open_with(pooled, None)
        contenders[IN_TURN]._session.most = 1
        alone = measure(contenders, texts, ROUNDS // few)
        with busy_processor():
            beside = measure(contenders, texts, ROUNDS // few)
    text = render(alone, beside)
    print(text)
    if arguments.write:
        put(PAGE, "session options", text)


def open_with(path: Path, change: Callable[[Any], None] | None) -> Embedder:
    """Return an Embedder whose session has one option the other way."""
    open_session = sessions.Session._open

    def open_changed(one: Any, source: Any, options: Any, *rest: Any) -> None:
        if change is not None:
            change(options)
        open_session(one, source, options, *rest)

    sessions.Session._open = open_changed  # type: ignore[method-assign]
    try:
        made = Embedder(path, threads=2, providers="cpu", max_batch_tokens=BUDGET)
        made.prepare_for_many()
        return made
    finally:
        sessions.Session._open = open_session  # type: ignore[method-assign]


def measure(contenders: Mapping[str, Embedder], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender, by round."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):  # the first round prepares memory
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            time.sleep(CALM)
            start = time.perf_counter()
            contenders[name].encode(texts)
            times[name] += [time.perf_counter() - start] * bool(number)
    return times


def work() -> None:
    while True:
        pass


@contextmanager
def busy_processor() -> Iterator[None]:
    other = multiprocessing.get_context("spawn").Process(target=work, daemon=True)
    other.start()
    try:
        yield
    finally:
        other.kill()


def render(alone: Mapping[str, list[float]], beside: Mapping[str, list[float]]) -> str:
    header = ("the other choice", "alone", "one processor busy with other work")
    lines = [f"{describe_machine()}.", "", f"| {' | '.join(header)} |", "| --- | ---: | ---: |"]
    for name in (IN_TURN, *OTHERS):
        cells = (describe_ratios(times[name], times["own"]) for times in (alone, beside))
        lines.append(f"| {' | '.join((name, *cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
