"""The rewrite pooled-token on the real all-MiniLM-L6-v2 with cls pooling: how many times as fast as the file it came from.

    pooled_token.py            print it; some minutes. It needs the environment that `make pooled-token` makes
    pooled_token.py --quick    few rounds: does it run?
    pooled_token.py --write    put it into docs/performance.md, between its marks

The encoder has all its six layers, or only the first three. The file it came from is the plain one, the fused one, and the
padding-free one; the last gets the rewrite before `padding-free`. All files run in turns in one process, with two threads that
do not spin, and their vectors are compared with those of the plain file. It fails if a promise of the rewrite is not kept.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "demo")]

from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery import AddPooling, Fuse, PaddingFree, PooledToken  # noqa: E402
from graphsurgery.compare.timing import Timing, race  # noqa: E402
from graphsurgery.rewrites.rewrite import Rewrite  # noqa: E402
from graphsurgery.runtime.session import Session  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
THREADS = 2
SECONDS = 15.0
"""How long the files of one encoder take turns on one batch."""
AGREES = 1e-5
VOCABULARY = 30522
LAYERS = (6, 3)
PLAIN = "the plain file"
BEHIND: Mapping[str, tuple[tuple[Rewrite, ...], tuple[Rewrite, ...]]] = {
    PLAIN: ((), (PooledToken(),)),
    "`fuse`": ((Fuse(),), (Fuse(), PooledToken())),
    "`padding-free`": ((PaddingFree(),), (PooledToken(), PaddingFree())),
}
"""By the file it came from: the rewrites without pooled-token, and with it."""
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """So many texts, the longest of ``tokens``. The lengths of the others spread evenly from ``shortest`` on."""

    texts: int
    tokens: int
    shortest: int

    @property
    def lengths(self) -> np.ndarray:
        return np.linspace(self.tokens, self.shortest, self.texts).round().astype(int)

    def draw(self) -> Feed:
        ids = np.random.default_rng(self.tokens).integers(1000, VOCABULARY, (self.texts, self.tokens))
        mask = (np.arange(self.tokens) < self.lengths[:, None]).astype(np.int64)
        return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    def __str__(self) -> str:
        fill = self.lengths.sum() / (self.texts * self.tokens)
        return f"{self.texts} x {self.tokens}" + (f", {fill:.0%} full" if fill < 1 else "")


BATCHES = (Batch(16, 128, 128), Batch(16, 128, 26), Batch(2, 512, 512), Batch(1, 128, 128), Batch(1, 16, 16))
PROMISED = {6: 1.14, 3: 1.25}
"""How many times as fast the plain file gets on the first batch, by the number of layers."""


@dataclass(frozen=True)
class Pair:
    """The times of a file and of the same one with pooled-token."""

    layers: int
    behind: str
    batch: Batch
    timing: Timing
    furthest: float
    """The largest difference of an element from the plain file's vectors."""

    @property
    def best(self) -> float:
        """The ratio of the best times."""
        before, after = zip(*self.timing.pairs, strict=True)
        return min(before) / min(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    arguments = parser.parse_args()
    if arguments.write and arguments.quick:
        parser.error("the page has the table of the whole benchmark: leave out --quick or --write")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [pair for layers in LAYERS for pair in measure(Path(folder), layers, 0.0 if arguments.quick else SECONDS)]
    table = render(pairs)
    print(table)
    if arguments.write:
        put(PAGE, "pooled token", table)
    wrong = [f"{one.behind}, {one.batch}: {one.furthest:.1e}" for one in pairs if one.furthest > AGREES]
    if wrong:
        sys.exit(f"these vectors are more than {AGREES:g} from the plain file's: {'; '.join(wrong)}")
    broken = list(list_broken_promises(pairs))
    if broken and not arguments.quick:
        sys.exit("\n".join(broken))


def measure(folder: Path, layers: int, seconds: float) -> Iterator[Pair]:
    """Make the files of an encoder and run all of them in turns on each batch."""
    files = make_files(folder / str(layers), layers)
    places = list(files)
    sessions = [Session(path, threads=THREADS) for path in files.values()]
    for batch in BATCHES:
        print(f"{layers} layers, {batch}", file=sys.stderr, flush=True)
        feed = batch.draw()
        vectors = [session.run(feed, ["sentence_embedding"])["sentence_embedding"] for session in sessions]
        rounds = race([partial(session.run, feed) for session in sessions], seconds)
        for behind in BEHIND:
            before, after = (places.index((behind, narrowed)) for narrowed in (False, True))
            timing = Timing(batch.texts, batch.tokens, tuple((one[before], one[after]) for one in rounds))
            furthest = max(float(np.abs(vectors[place] - vectors[0]).max()) for place in (before, after))
            yield Pair(layers, behind, batch, timing, furthest)


def make_files(folder: Path, layers: int) -> dict[tuple[str, bool], Path]:
    """Export the first layers of the real model, and write each file of `BEHIND` without the rewrite and with it."""
    from minilm import model_folder

    from graphsurgery.exporting.exporters import write_onnx
    from graphsurgery.exporting.subject import load_subject

    shutil.copytree(model_folder(), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}), encoding="utf-8")
    write_onnx(load_subject(folder, "feature-extraction"), folder / "model.onnx")
    pooled = folder / "pooled.onnx"
    graphsurgery.run([AddPooling("cls", normalize=True)], folder / "model.onnx", output=pooled, verify=False)
    files = {}
    for behind, both in BEHIND.items():
        for place, rewrites in enumerate(both):
            path = files[behind, bool(place)] = pooled if not rewrites else folder / f"{len(files)}.onnx"
            if rewrites:
                graphsurgery.run(rewrites, pooled, output=path, verify=False)
    return files


def render(pairs: list[Pair]) -> str:
    """Return one row for each file: the ratio of the best times by batch, and in brackets the median ratio."""
    header = ["layers", "it came from", *map(str, BATCHES), "furthest"]
    lines = [f"| {' | '.join(header)} |", f"| ---: | --- |{' ---: |' * (len(header) - 2)}"]
    for layers in LAYERS:
        for behind in BEHIND:
            row = [one for one in pairs if (one.layers, one.behind) == (layers, behind)]
            cells = [f"{one.best:.2f} ({one.timing.ratio:.2f})" for one in row]
            furthest = f"{max(one.furthest for one in row):.1e}"
            lines.append(f"| {' | '.join([str(layers), behind, *cells, furthest])} |")
    return "\n".join(lines)


def list_broken_promises(pairs: list[Pair]) -> Iterator[str]:
    """Yield what is slower than promised: the plain file on the first batch, and any file on a single text."""
    for one in pairs:
        promised = PROMISED[one.layers] if one.behind == PLAIN and one.batch == BATCHES[0] else 0.0
        where = f"{one.layers} layers, behind {one.behind}, {one.batch}"
        if one.best < promised:
            yield f"{where}: {one.best:.2f} times as fast, and {promised} are promised"
        if one.batch.texts == 1 and one.timing.helped is False:
            yield f"{where}: slower than the file it came from, {one.timing.ratio:.2f} times as fast"


if __name__ == "__main__":
    main()
