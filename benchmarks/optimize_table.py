"""The table of docs/optimize.md: what the transformer optimizer should fuse, what it does alone and what it does with ours.

    optimize_table.py            print it
    optimize_table.py --write    put it into docs/optimize.md, between its marks

Small random encoders of every architecture of the fixtures, each with a head (mean pooling, normalised), for fusions and
exactness; the same with 6 layers of 384 dims for speed: interleaved runs at equal threads, before and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "fixtures")]

from page import put  # noqa: E402

import graphsurgery  # noqa: E402
from graphsurgery.compare.timing import Timing  # noqa: E402
from graphsurgery.errors import UnsupportedModelError  # noqa: E402
from graphsurgery.proof.source_feeds import make_feed_generator  # noqa: E402
from graphsurgery.rewrites.fuse.fusions import find_fusable, report_fusions  # noqa: E402
from graphsurgery.rewrites.fuse.report import KINDS, FusionReport  # noqa: E402
from graphsurgery.runtime.session import Session  # noqa: E402

PAGE = ROOT / "docs" / "optimize.md"
LEFT_OUT = ("bert-external", "bert-fp16")
"""BERT once more."""
COLUMNS = ("architecture", *KINDS, "left padding, alone", "left padding, here", "speed")
HEADER = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
LARGER = {
    "hidden_size": 384, "dim": 384, "d_model": 384, "num_hidden_layers": 6, "n_layers": 6, "num_layers": 6,
    "num_attention_heads": 12, "n_heads": 12, "num_heads": 12, "intermediate_size": 1536, "hidden_dim": 1536, "d_ff": 1536,
    "d_kv": 32, "head_dim": 32, "num_key_value_heads": 4, "embedding_size": 128, "local_attention": 64,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/optimize.md")
    parser.add_argument("names", nargs="*", help="only these architectures")
    arguments = parser.parse_args()
    if arguments.write and arguments.names:
        parser.error("the page has the table of all architectures: give no names with --write")
    logging.disable(logging.CRITICAL)
    table = "\n".join([HEADER, *rows(arguments.names)])
    print(table)
    if arguments.write:
        put(PAGE, "table", table)


def rows(names: list[str]) -> Iterator[str]:
    from architectures import COMMITTED, ON_REQUEST

    for architecture in sorted((*COMMITTED, *ON_REQUEST), key=lambda one: one.name):
        if architecture.name not in LEFT_OUT and (not names or architecture.name in names):
            with tempfile.TemporaryDirectory() as folder:
                yield row(architecture, Path(folder))


def row(architecture: Any, folder: Path) -> str:
    pooled = export(architecture, folder / "small")
    done = graphsurgery.optimize(pooled, output=folder / "optimized.onnx", time=False)
    bare, apart = bare_optimizer(pooled, done)
    fused = [_counted(kind, bare, done.fusions) for kind in KINDS]
    config = {key: LARGER.get(key, value) for key, value in architecture.config.items()}
    larger = export(dataclasses.replace(architecture, config=config), folder / "larger")
    timings = graphsurgery.optimize(larger, output=folder / "larger.onnx").timings
    speed = ", ".join(map(_speed, timings.shapes)) if timings is not None else "-"
    here = f"{left_padding(pooled, Session(done.output)):.1e}"
    return f"| {' | '.join([architecture.name, *fused, apart, here, speed])} |"


def _speed(timing: Timing) -> str:
    """How many times faster, in brackets where that may be chance."""
    return f"({timing.ratio:.2f}x)" if timing.helped is None else f"{timing.ratio:.2f}x"


def _counted(kind: str, bare: FusionReport, ours: FusionReport | None) -> str:
    """How many fuse, of how many; and how many alone, where that is another number."""
    fused, wanted = (ours.counts if ours is not None else {}).get(kind, (0, 0))
    alone, _ = bare.counts.get(kind, (0, 0))
    return "" if not wanted else f"{fused} of {wanted}" + (f" (alone {alone})" if alone != fused else "")


def export(architecture: Any, folder: Path) -> Path:
    """The architecture's encoder with a head."""
    import encoders
    from tokenizers_tiny import make_tokenizer

    folder.mkdir()
    tokenizer = make_tokenizer(architecture.tokens)
    path = encoders.export(encoders.make_encoder(architecture, tokenizer.get_vocab_size()), architecture, folder)
    graphsurgery.run([graphsurgery.AddPooling("mean", normalize=True)], path, output=folder / "pooled.onnx", verify=False)
    return folder / "pooled.onnx"


def bare_optimizer(pooled: Path, done: graphsurgery.Optimized) -> tuple[FusionReport, str]:
    """What the optimizer fuses by itself, and how far it is off under left padding, or that its file does not load."""
    from onnxruntime.transformers.optimizer import optimize_model

    source = graphsurgery.load(pooled)
    assert done.architecture is not None
    bare = optimize_model(str(pooled), done.architecture.model_type, opt_level=0).model
    report = report_fusions(find_fusable(source, done.architecture.model_type), source.to_proto(), bare)
    try:
        return report, f"{left_padding(pooled, Session(bare.SerializeToString())):.1e}"
    except UnsupportedModelError:
        return report, "does not load"


def left_padding(source: Path, session: Session) -> float:
    """The largest difference of the embeddings, texts padded on the left."""
    generator = make_feed_generator(graphsurgery.load(source))
    mask = dict(generator.generate_masks())["left padding"][0]
    feed = generator.generate(mask, seed=0)
    wanted, found = (one.run(feed, ["sentence_embedding"])["sentence_embedding"] for one in (Session(source), session))
    return float(np.abs(wanted - found).max())


if __name__ == "__main__":
    main()
