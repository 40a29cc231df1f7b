"""The real all-MiniLM-L6-v2: exported by Optimum, pooled and normalised here, compared with sentence-transformers.

Runs in the peers environment: Optimum and sentence-transformers need PyTorch. Downloads the model once (80 MB).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from minilm import MiniLMUnavailableError, model_folder
from rich.table import Table
from steps import ROOT, SCRATCH, console, cosine_cell, embed, graphsurgery, load_tokenizer, run, say, step

LONGEST = 256
"""Tokens that all-MiniLM-L6-v2 takes (its sentence_bert_config.json)."""
PROMISED = 1e-6
PAIRS = (
    ("paraphrase", "How do I reset my password?", "I forgot my login and need a new one."),
    ("paraphrase", "Heavy snow stopped the trains.", "The railway is closed because of a blizzard."),
    ("paraphrase", "She sold her car last week.", "Her vehicle has a new owner since Monday."),
    ("one word apart", "The restaurant was great.", "The restaurant was terrible."),
    ("translation", "The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa."),
    ("translation", "Where is the train station?", "¿Dónde está la estación de tren?"),
    ("unrelated", "How do I reset my password?", "Whisk two eggs with a spoonful of flour."),
    ("unrelated", "Heavy snow stopped the trains.", "The contract ends in December."),
)


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    step("1. The model as sentence-transformers publishes it")
    try:
        source = model_folder()
    except MiniLMUnavailableError as error:
        sys.exit(str(error))
    say(f"{source.relative_to(ROOT)}: PyTorch weights, tokenizer, and modules.json (Transformer, Pooling, Normalize).")

    step("2. Optimum exports the transformer alone: last_hidden_state [batch, seq, 384]")
    folder = SCRATCH / "minilm"
    export(source, folder)

    step("3. Add mean pooling and L2 normalisation; prove it before the file gets its name")
    graphsurgery("add-pooling", "model.onnx", "--mode", "mean", "--normalize", cwd=folder)

    step("4. Real sentences")
    show_pairs(folder)

    step("5. The same from sentence-transformers, in PyTorch")
    show_comparison(source, folder)


def export(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    arguments = ["export", "onnx", "--model", str(source.relative_to(ROOT))]
    arguments += ["--task", "feature-extraction", "--library", "transformers", str(folder.relative_to(ROOT))]
    run("optimum-cli", arguments, [sys.executable, "-m", "optimum.commands.optimum_cli"], ROOT, silent=True)
    size = (folder / "model.onnx").stat().st_size
    say(f"{folder.relative_to(ROOT)}/model.onnx, {size / 1e6:.0f} MB, with its tokenizer beside it.")


def show_pairs(folder: Path) -> None:
    """A table of the pairs' cosines."""
    texts = [pair[1] for pair in PAIRS] + [pair[2] for pair in PAIRS]
    vectors = embed(folder / "model.pooled.onnx", load_tokenizer(folder / "tokenizer.json", LONGEST), texts)
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for name in ("pair", "text", "and text"):
        table.add_column(name)
    table.add_column("cosine", justify="right")
    for (kind, one, other), first, second in zip(PAIRS, vectors, vectors[len(PAIRS) :], strict=False):
        table.add_row(kind, one, other, cosine_cell(float(first @ second)))
    console.print(table)
    console.print()
    say("The model was trained on English texts: that a translation says the same, it cannot tell.")


def show_comparison(source: Path, folder: Path) -> None:
    """How far both are apart on the test suite's sentences; the demo fails where it is more than promised."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(source), device="cpu")
    texts = (ROOT / "tests" / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    texts.sort(key=len)  # batches of about one length, as encode makes them
    expected = reference.encode(texts, batch_size=32).astype(np.float64)
    found = embed(folder / "model.pooled.onnx", load_tokenizer(folder / "tokenizer.json", LONGEST), texts).astype(np.float64)
    worst = float(np.abs(found - expected).max())
    console.print(f"texts compared    {len(texts)}, in many languages, up to {LONGEST} tokens; vectors of {found.shape[1]}")
    console.print(f"worst difference  {worst:.1e} of any component (promised: at most {PROMISED:.0e})")
    if not worst <= PROMISED:
        sys.exit("further apart than promised")


if __name__ == "__main__":
    main()
