"""The tables of docs/performance.md about padding-free files: the real all-MiniLM-L6-v2 by several plans, and without padding.

    padding_free.py            print them; a quarter of an hour. It needs the environment of `make test-peers`
    padding_free.py --quick    fewer texts and rounds: does it run?
    padding_free.py --write    put them into docs/performance.md, between their marks

A *way* is a file and a plan: which texts of a workload run together. All ways run in turns in one process, with two threads
that do not spin; for its memory, each runs in a process of its own. All vectors are compared. Linux only.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean

import numpy as np
from contest.texts import read_passages, read_sentences
from page import put
from peers import describe_machine, export_model

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "demo")]

import graphsurgery  # noqa: E402
from graphsurgery import AddPooling, PaddingFree, plan  # noqa: E402
from graphsurgery.compare.timing import race  # noqa: E402
from graphsurgery.runtime.memory import Memory, measure_memory  # noqa: E402
from graphsurgery.runtime.session import Session  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
THREADS, WINDOW, BUDGET, LONGEST = 2, 32, 512, 512
SECONDS = 90.0
"""How long the ways of one workload take turns."""
AGREES = 1e-5
MILLION = 1 << 20
EMBEDDING = "sentence_embedding"
PLAIN, ROWS, GATHER, BOTH = "padded", "`rows`", "`gather`", "`rows`, `keep_padded`"
FILES: Mapping[str, tuple[PaddingFree, ...]] = {
    PLAIN: (), ROWS: (PaddingFree(),), GATHER: (PaddingFree("gather"),), BOTH: (PaddingFree(keep_padded=True),),
}  # fmt: skip
Feed = dict[str, np.ndarray]
Batches = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Way:
    """A file and the batches that it runs."""

    name: str
    file: str
    batches: Batches


@dataclass(frozen=True)
class Row:
    """What one way took: seconds by round, and bytes."""

    way: Way
    seconds: list[float]
    memory: Memory | None


ARRIVAL = f"{WINDOW} texts, as they come"
IN_WINDOWS, OFFLINE = f"planned inside {WINDOW} texts", "planned, all texts"
PACKS = f"up to {BUDGET} tokens, as they come"
DENSE = "dense limit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds")
    parser.add_argument("--write", action="store_true", help="put them into docs/performance.md")
    parser.add_argument("--work", type=Path, help="where to write the files")
    arguments = parser.parse_args()
    if arguments.write and arguments.quick:
        parser.error("the page has the tables of the whole benchmark: leave out --quick or --write")
    few, seconds = (4, 0.0) if arguments.quick else (1, SECONDS)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        tokenizer, files = make_files(Path(folder))
        workloads = {
            "short texts": tokenize(read_sentences(128 // few), tokenizer),
            "passages": tokenize(read_passages(64 // few), tokenizer),
        }
        measured = {name: measure(texts, files, seconds) for name, texts in workloads.items()}
        full = render_full(files, seconds / 9, (1, 4) if arguments.quick else (1, 4, 32))
    text = "\n\n".join([f"{describe_machine(('onnxruntime',))}.", render(workloads, measured), render_bars(measured), full])
    print(text)
    if arguments.write:
        put(PAGE, "padding-free", text)


def make_files(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Export the real model. Return its tokenizer, and the file with its head by name of each of the `FILES`."""
    from minilm import model_folder

    model, transformer = folder / "model", folder / "transformer"
    shutil.copytree(model_folder(), model)
    export_model(model, "transformers", transformer)
    files = {}
    for number, (name, rewrites) in enumerate(FILES.items()):
        files[name] = folder / f"{number}.onnx"
        steps = [AddPooling("mean", normalize=True), *rewrites]
        graphsurgery.run(steps, transformer / "model.onnx", output=files[name], verify=False)
    return model / "tokenizer.json", files


def tokenize(texts: Sequence[str], path: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return [one.ids for one in tokenizer.encode_batch(list(texts))]


def list_ways(lengths: Sequence[int]) -> Iterator[Way]:
    """Yield the ways of a workload, first the one that all others are compared with."""
    windows = list(cut(range(len(lengths)), lambda rows: len(rows) <= WINDOW))
    packs = list(cut(range(len(lengths)), lambda rows: sum(lengths[row] for row in rows) <= BUDGET))
    for file in (PLAIN, ROWS, GATHER):
        is_padded = file == PLAIN
        yield Way(ARRIVAL, file, windows)
        if not is_padded:
            yield Way(PACKS, file, packs)
        yield Way(IN_WINDOWS, file, [batch for rows in windows for batch in plan_part(lengths, rows, is_padded)])
        yield Way(OFFLINE, file, plan(lengths, BUDGET, padded=is_padded))


def cut(rows: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> Iterator[list[int]]:
    """Yield ``rows`` in pieces of neighbours, each as long as it still fits."""
    piece: list[int] = []
    for row in rows:
        if piece and not fits([*piece, row]):
            yield piece
            piece = []
        piece.append(row)
    yield piece


def plan_part(lengths: Sequence[int], rows: Sequence[int], is_padded: bool) -> list[list[int]]:
    """Return the batches of a plan for some of the texts."""
    return [[rows[place] for place in batch] for batch in plan([lengths[row] for row in rows], BUDGET, padded=is_padded)]


def make_feed(texts: Sequence[Sequence[int]]) -> Feed:
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def make_dense_feeds(texts: Sequence[Sequence[int]]) -> list[Feed]:
    """Return as many tokens as ``texts`` have, in texts of their mean length, in runs of up to `BUDGET` tokens."""
    tokens = [token for text in texts for token in text]
    width = round(len(tokens) / len(texts))
    rows = [tokens[start : start + width] for start in range(0, len(tokens), width)]
    rows[-1] = tokens[-width:]
    at_once = max(1, BUDGET // width)
    return [make_feed(rows[start : start + at_once]) for start in range(0, len(rows), at_once)]


def measure(texts: Sequence[Sequence[int]], files: Mapping[str, Path], seconds: float) -> list[Row]:
    """Run all ways of a workload in turns, each once for its memory, and compare their vectors."""
    ways = list(list_ways([len(text) for text in texts]))
    feeds = [[make_feed([texts[row] for row in batch]) for batch in way.batches] for way in ways]
    ways.append(Way(DENSE, PLAIN, ()))
    feeds.append(make_dense_feeds(texts))
    sessions = {name: Session(path, threads=THREADS) for name, path in files.items()}
    require_agreement(ways, feeds, sessions)
    runs = [partial(run_all, sessions[way.file], those) for way, those in zip(ways, feeds, strict=True)]
    rounds = race(runs, seconds)
    memory = [measure_memory(files[way.file], those, THREADS) for way, those in zip(ways, feeds, strict=True)]
    return [Row(way, [one[place] for one in rounds], memory[place]) for place, way in enumerate(ways)]


def run_all(session: Session, feeds: Sequence[Feed]) -> list[np.ndarray]:
    return [session.run(feed, [EMBEDDING])[EMBEDDING] for feed in feeds]


def require_agreement(ways: Sequence[Way], feeds: Sequence[Sequence[Feed]], sessions: Mapping[str, Session]) -> None:
    """Exit if a vector of a way is not that of the first one."""
    wanted: dict[int, np.ndarray] = {}
    for way, those in zip(ways, feeds, strict=True):
        for batch, vectors in zip(way.batches, run_all(sessions[way.file], those) if way.batches else (), strict=True):
            for row, vector in zip(batch, vectors, strict=True):
                apart = float(np.abs(wanted.setdefault(row, vector) - vector).max())
                if apart > AGREES:
                    sys.exit(f"{way.file}, {way.name}: the vector of text {row} is {apart:.1e} from the first one")


def render(workloads: Mapping[str, Sequence[Sequence[int]]], measured: Mapping[str, Sequence[Row]]) -> str:
    """Return the table of all ways: how many times as fast as the first one, and the memory beyond the loaded file."""
    header = ["file", "runs"]
    for name, texts in workloads.items():
        feeds = [make_feed(texts[start : start + WINDOW]) for start in range(0, len(texts), WINDOW)]
        fill = sum(one["attention_mask"].sum() for one in feeds) / sum(one["attention_mask"].size for one in feeds)
        header += [f"{len(texts)} {name}, fill {fill:.2f}", "MiB"]
    lines = [f"| {' | '.join(header)} |", f"| --- | --- |{' ---: |' * (len(header) - 2)}"]
    for rows in zip(*measured.values(), strict=True):
        cells = [rows[0].way.file, rows[0].way.name]
        for row, those in zip(rows, measured.values(), strict=True):
            cells += [describe(compare(those[0], row)), describe_memory(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(base: Row, row: Row) -> tuple[float, float]:
    """Return how many times as fast as ``base`` a row is: its best round to the best of the other, and the median of rounds."""
    return min(base.seconds) / min(row.seconds), float(np.median(np.array(base.seconds) / np.array(row.seconds)))


def describe(ratio: tuple[float, float]) -> str:
    return f"{ratio[0]:.2f} ({ratio[1]:.2f})"


def describe_memory(row: Row) -> str:
    return "" if row.memory is None else f"{(row.memory.peak - row.memory.loaded) / MILLION:.0f}"


def render_bars(measured: Mapping[str, Sequence[Row]]) -> str:
    """Return the table of what the form `rows` is held to."""
    found = {name: {(row.way.file, row.way.name): row for row in rows} for name, rows in measured.items()}
    lines = ["| `rows` against | to reach | short texts | passages | together |", "| --- | ---: | ---: | ---: | ---: |"]
    bars = (
        ("the dense limit, in the order of arrival", "0.97", (PLAIN, DENSE), (ROWS, PACKS)),
        (f"padded, {ARRIVAL}", "5 and 1.8", (PLAIN, ARRIVAL), (ROWS, ARRIVAL)),
        (f"padded, {IN_WINDOWS}", "1.10", (PLAIN, IN_WINDOWS), (ROWS, IN_WINDOWS)),
        (f"padded, {OFFLINE}", "1.03", (PLAIN, OFFLINE), (ROWS, PACKS)),
    )
    for name, bar, base, row in bars:
        ratios = [compare(those[base], those[row]) for those in found.values()]
        together = (geometric_mean(one[0] for one in ratios), geometric_mean(one[1] for one in ratios))
        lines.append(f"| {name} | {bar} | {' | '.join(map(describe, [*ratios, together]))} |")
    for way in (ARRIVAL, PACKS):
        shares = [_share_memory(those[PLAIN, ARRIVAL], those[ROWS, way]) for those in found.values()]
        lines.append(f"| memory of a run, {way}, of padded, {ARRIVAL} | 0.20 at most | {' | '.join(shares)} | |")
    return "\n".join(lines)


def _share_memory(base: Row, row: Row) -> str:
    if base.memory is None or row.memory is None:
        return ""
    return f"{(row.memory.peak - row.memory.loaded) / max(1, base.memory.peak - base.memory.loaded):.2f}"


def render_full(files: Mapping[str, Path], seconds: float, batches: Sequence[int]) -> str:
    """Return the table of texts of equal lengths: how many times as fast as the padded file the others are."""
    shapes = [(rows, width) for rows in batches for width in (16, 128, 512) if rows * width <= 8192]
    feeds = [make_feed(np.random.default_rng(0).integers(1000, 20000, shape).tolist()) for shape in shapes]
    sessions = [Session(path, threads=THREADS) for path in files.values()]
    header = ["file", *(f"{rows} x {width}" for rows, width in shapes), "loaded, MiB"]
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    rounds = [np.array(race([partial(one.run, feed, [EMBEDDING]) for one in sessions], seconds)) for feed in feeds]
    for place, (name, path) in enumerate(files.items()):
        best = [those[:, 0].min() / those[:, place].min() for those in rounds]
        median = [float(np.median(those[:, 0] / those[:, place])) for those in rounds]
        memory = measure_memory(path, feeds[:1], THREADS)
        loaded = "" if memory is None else f"{memory.loaded / MILLION:.0f}"
        lines.append(f"| {' | '.join([name, *map(describe, zip(best, median, strict=True)), loaded])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
