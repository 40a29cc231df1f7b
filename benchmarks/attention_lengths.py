"""The table of docs/optimize.md by length: speed and memory of an encoder with its attention computed in several ways.

    attention_lengths.py            print it; a few minutes
    attention_lengths.py --quick    a smaller encoder, fewer rounds: does it run?
    attention_lengths.py --write    put it into docs/optimize.md, between its marks

A random BERT of 6 layers, 384 dims and 12 heads with mean pooling, exported by Optimum. Every run holds 2,048 tokens, in texts
of one length. The files run in turns in one process, with two threads that do not spin; for its memory, each runs in a process
of its own. All vectors are compared with those of the plain file. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "fixtures")]

from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery import AddPooling, Fuse, FuseAttention, PaddingFree  # noqa: E402
from graphsurgery.compare.timing import race  # noqa: E402
from graphsurgery.rewrites.rewrite import Rewrite  # noqa: E402
from graphsurgery.runtime.memory import measure_memory  # noqa: E402
from graphsurgery.runtime.session import Session  # noqa: E402

PAGE = ROOT / "docs" / "optimize.md"
TOKENS, LENGTHS, THREADS = 2048, (128, 512, 2048), 2
SECONDS = 12.0
"""How long the files take turns at one length."""
AGREES = 1e-5
OPSET = 23
"""The first opset with an Attention."""
PLAIN, STANDARD = "plain", "`attention`, ONNX's operator"
WAYS: Mapping[str, tuple[Rewrite, ...]] = {
    PLAIN: (),
    "`fuse` (ONNX Runtime's own Attention)": (Fuse(),),
    "`attention`, MultiHeadAttention": (FuseAttention(),),
    "`attention` and `fuse`": (FuseAttention(), Fuse()),
    STANDARD: (FuseAttention("standard"),),
    "`padding-free`, row by row": (PaddingFree(),),
}
Feed = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smaller encoder, fewer rounds")
    parser.add_argument("--write", action="store_true", help="put it into docs/optimize.md")
    arguments = parser.parse_args()
    if arguments.write and arguments.quick:
        parser.error("the page has the table of the whole benchmark: leave out --quick or --write")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), layers=1 if arguments.quick else 6)
        table = render(files, {length: draw_feed(length) for length in LENGTHS}, 0.0 if arguments.quick else SECONDS)
    print(table)
    if arguments.write:
        put(PAGE, "lengths", table)


def make_files(folder: Path, layers: int) -> dict[str, Path]:
    """Export the encoder with its head, and write it in each of the `WAYS`."""
    import encoders
    from architectures import COMMITTED

    bert = next(one for one in COMMITTED if one.name == "bert")
    config = dict(bert.config, hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536)
    bert = dataclasses.replace(bert, config=config | {"max_position_embeddings": max(LENGTHS)})
    exported = encoders.export(encoders.make_encoder(bert, 1000), bert, folder)
    plain, newer = folder / "plain.onnx", folder / "newer.onnx"
    graphsurgery.run([AddPooling("mean", normalize=True)], exported, output=plain, verify=False)
    model = onnx.load(plain)
    model.opset_import[0].version, model.ir_version = OPSET, 11  # the operators of this file are the same there
    onnx.save(model, newer)
    files = {PLAIN: plain}
    for number, (name, rewrites) in enumerate(WAYS.items()):
        if rewrites:
            files[name] = folder / f"{number}.onnx"
            source = newer if name == STANDARD else plain
            graphsurgery.run(rewrites, source, output=files[name], verify=False)
    return files


def draw_feed(length: int) -> Feed:
    ids = np.random.default_rng(length).integers(5, 1000, (TOKENS // length, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def render(files: Mapping[str, Path], feeds: Mapping[int, Feed], seconds: float) -> str:
    """Measure the files, and return the table."""
    shapes = [f"{TOKENS // length} x {length}" for length in feeds]
    header = ["file", *shapes, *(f"{shape}, MiB" for shape in shapes), "furthest"]
    speeds = {length: measure_speeds(list(files.values()), feed, seconds) for length, feed in feeds.items()}
    wanted = {length: embed(files[PLAIN], feed) for length, feed in feeds.items()}
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    for place, (name, path) in enumerate(files.items()):
        furthest = max(float(np.abs(embed(path, feed) - wanted[length]).max()) for length, feed in feeds.items())
        if furthest > AGREES:
            sys.exit(f"{name}: a vector is {furthest:.1e} from the plain file's")
        cells = [*(speeds[length][place] for length in feeds), *(measure_peak(path, feed) for feed in feeds.values())]
        lines.append(f"| {' | '.join([name, *cells, f'{furthest:.1e}'])} |")
    return "\n".join(lines)


def measure_speeds(paths: Sequence[Path], feed: Feed, seconds: float) -> list[str]:
    """Return how many times as fast as the first file each file is: the best times of each, and in brackets the median."""
    rounds = np.array(race([partial(Session(path, threads=THREADS).run, feed) for path in paths], seconds))
    best, median = rounds[:, :1].min(axis=0) / rounds.min(axis=0), np.median(rounds[:, :1] / rounds, axis=0)
    return [f"{one:.2f} ({other:.2f})" for one, other in zip(best, median, strict=True)]


def measure_peak(path: Path, feed: Feed) -> str:
    """Return the MiB that a run takes at most beyond the loaded file."""
    found = measure_memory(path, [feed], THREADS)
    return "" if found is None else f"{(found.peak - found.loaded) / 2**20:.0f}"


def embed(path: Path, feed: Feed) -> np.ndarray:
    return Session(path, threads=THREADS).run(feed, ["sentence_embedding"])["sentence_embedding"]


if __name__ == "__main__":
    main()
