"""`graphsurgery.Embedder` beside other ways to embed the same 1,000 texts of mixed length, on the real all-MiniLM-L6-v2.

    embedder.py              print it; half an hour. It needs the environment that `make bench-peers` makes
    embedder.py --quick      fewer texts and rounds, and no int8 file: does it run?
    embedder.py --write      put it into docs/embedding.md, between its marks

All contenders run in one go, each in a process of its own: one after the other in every round, in another order each time, on
the same texts with two threads. The figures are ratios within a round. The benchmark fails if one at equal precision is
faster than the Embedder, or if another budget than the measured one is more than 5 % faster. Linux only.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from contest.engines import SEARCHED
from contest.texts import read_passages, read_sentences
from page import put
from peers import AGREES, SEED, Row, Workload, choose_engines, make_files, measure, render, run_graphsurgery

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "embedding.md"
SHORT, LONG = 900, 100
OWN = "Embedder: baked"
BESIDE = ("sentence-transformers", "fastembed", "txtai", "ONNX Runtime, arrival", "ONNX Runtime, one", "Embedder")
OTHER_FILES = (f"{OWN}, --speed", "Embedder: padding-free", "Embedder: int8", "Embedder: padding-free, int8")
"""What may be faster: the Embedder on files that compute less."""
MOST_BEHIND = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds, and no int8 file")
    parser.add_argument("--rounds", type=int, help="how often each engine runs (5)")
    parser.add_argument("--write", action="store_true", help="put it into docs/embedding.md")
    arguments = parser.parse_args()
    part, rounds = (10, 2) if arguments.quick else (1, 5)
    texts = read_sentences(SHORT // part) + read_passages(LONG // part)
    random.Random(SEED).shuffle(texts)
    engines = [*choose_engines(BESIDE), *(one for one in SEARCHED if "int8" not in one or not arguments.quick)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_files(folder)
        if not arguments.quick:
            for source, target in ((files.baked, files.int8), (files.padding_free, files.packed_int8)):
                run_graphsurgery("quantize", source, "-o", target, "--min-cosine", "0.99")
        work = Workload("mixed texts, all at once", texts, len(texts))
        rows = measure(work, files, arguments.rounds or rounds, folder, engines)
    text = render({f"{len(texts)} texts": rows})
    print(text)
    if arguments.write:
        put(PAGE, "embedder", text)
    if wrong := list_misses(rows):
        sys.exit("\n".join(wrong))


def list_misses(rows: Sequence[Row]) -> list[str]:
    """Return what the Embedder does not keep of its promises, in sentences."""
    own = next(row for row in rows if row.engine == OWN)
    wrong = [
        f"{row.engine}: its vectors are {row.worst:.1e} from PyTorch's"
        for row in rows if row.worst > AGREES and "int8" not in row.engine
    ]  # fmt: skip
    for row in rows:
        ahead = median(mine / other for mine, other in zip(own.seconds, row.seconds, strict=True))
        limit = MOST_BEHIND if row.engine in SEARCHED else 1.0
        if ahead > limit and row.engine not in OTHER_FILES:
            wrong.append(f"{row.engine} is {ahead:.2f} times as fast as {OWN}")
    return wrong


if __name__ == "__main__":
    main()
