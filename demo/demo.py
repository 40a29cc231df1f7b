"""From a transformer-only ONNX file to sentence embeddings, on the command line; no PyTorch.

Works on a copy of fixtures/bert in the folder .demo, which is made anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from steps import ROOT, SCRATCH, console, graphsurgery, say, similarity_matrix, step

from graphsurgery import Embedder

TEXTS = (
    "The old ferry waits beside the bridge.",
    "The ferry waits at the old bridge.",
    "Bees prefer the lavender near the farm.",
    "Salt dries the fish, smoke flavours it.",
    "Is the night train still running?",
)


def main() -> None:
    folder = fresh_copy()
    say(f"In {folder.relative_to(ROOT)}: model.onnx, a BERT of three layers exported by Optimum, and its tokenizer.")

    step("1. What is this file?")
    graphsurgery("inspect", "model.onnx", cwd=folder)

    step("2. Add mean pooling and L2 normalisation; prove it before the file gets its name")
    graphsurgery("add-pooling", "model.onnx", "--mode", "mean", "--normalize", cwd=folder)

    step("3. Prove it again, at any time: the output against the file it was made from")
    graphsurgery("verify", "model.pooled.onnx", "--against", "model.onnx", cwd=folder)

    step("4. Embed texts")
    show_embeddings(folder)


def fresh_copy() -> Path:
    folder = SCRATCH / "bert"
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(ROOT / "fixtures" / "bert", folder))


def show_embeddings(folder: Path) -> None:
    model = Embedder(folder / "model.pooled.onnx")
    together = model.encode(TEXTS)
    alone = np.stack([model.encode(text) for text in TEXTS])
    lengths = np.linalg.norm(together.astype(np.float64), axis=1)
    console.print(similarity_matrix(TEXTS, model.similarity(together, together)))
    console.print()
    console.print(f"embeddings                  {list(together.shape)} {together.dtype}")
    console.print(f"their lengths               1 to within {np.abs(lengths - 1).max():.0e}")
    console.print(f"in a padded batch or alone  the same to within {np.abs(together - alone).max():.0e}")
    console.print()
    say(
        "The arithmetic is real, the meaning is not: this model is a test fixture with random weights, never trained, and its "
        "similarities say nothing about the texts. `make demo-minilm` does the same with the real all-MiniLM-L6-v2."
    )


if __name__ == "__main__":
    main()
